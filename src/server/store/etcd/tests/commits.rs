//! One commit and everything that can become of it.

use std::collections::VecDeque;

use registry_nodes::Error;
use registry_nodes::kv::{Answer, Fault, Transaction};

use crate::server::registry::persist::StoreChange;
use crate::server::registry::{Term, Tx};
use crate::server::store::etcd::commit::{Commit, Progress, Rejection};
use crate::server::store::etcd::layout::Key;
use crate::server::store::etcd::transaction::{Fence, Plan, plan};
use crate::server::store::tests::applied;

use super::images::{Leader, layout, many};
use super::model::Etcd;

fn commit_of(leader: &Leader, change: StoreChange) -> Commit {
    let layout = layout();
    let fence = Fence { layout: &layout, term: leader.term, number: 1, attempt: 1 };
    let mut queue = VecDeque::from([(Tx(1), change)]);
    let Some(Plan::Commit(planned)) = plan(&mut queue, &leader.image, fence) else { panic!() };
    Commit::new(*planned, fence.question(), leader.term, 1)
}

fn small(leader: &Leader) -> Commit {
    commit_of(leader, applied(1, 1, &[(1, Some("a.de"))]))
}

fn lost() -> Result<Answer, Fault> {
    Err(Fault::Away(Error::Ended))
}

/// Another replica leads.
fn deposed(etcd: &mut Etcd) {
    etcd.delete(&layout().key(&Key::Leader));
    etcd.put(&layout().key(&Key::Leader), br#"{"replica":"b"}"#);
}

/// The new leader commits something of its own.
fn superseded(etcd: &mut Etcd) {
    deposed(etcd);
    etcd.put(&layout().key(&Key::Commits(Term(etcd.revision as u64))), br#"{"changes":[]}"#);
}

#[test]
fn a_commit_that_is_answered_is_made() {
    let mut leader = Leader::new();
    let mut commit = small(&leader);
    let answer = leader.etcd.transact(commit.next());
    let revision = leader.etcd.revision;
    assert_eq!(commit.answered(answer), Progress::Committed { revision });
    assert_eq!(leader.watch().len(), 1);
}

#[test]
fn an_answer_that_is_lost_decides_nothing_and_the_same_commit_is_sent_again() {
    let mut leader = Leader::new();
    let mut commit = small(&leader);
    let first: Transaction = commit.next().clone();
    // It was made, and the answer was lost.
    leader.etcd.transact(&first).unwrap();
    let revision = leader.etcd.revision;
    assert_eq!(commit.answered(lost()), Progress::Again(Error::Ended));
    assert_eq!(*commit.next(), first);
    let answer = leader.etcd.transact(commit.next());
    assert_eq!(commit.answered(answer), Progress::Committed { revision }, "it was made once");
    assert_eq!(leader.etcd.revision, revision);

    // It was not made.
    let mut leader = Leader::new();
    let mut commit = small(&leader);
    assert_eq!(commit.answered(lost()), Progress::Again(Error::Ended));
    let answer = leader.etcd.transact(commit.next());
    assert!(matches!(commit.answered(answer), Progress::Committed { .. }));
}

#[test]
fn a_commit_whose_term_is_over_was_made_or_never_will_be() {
    for is_made in [true, false] {
        for depose in [deposed, superseded] {
            let mut leader = Leader::new();
            let mut commit = small(&leader);
            let mut revision = 0;
            if is_made {
                revision = leader.etcd.transact(commit.next()).unwrap().revision;
            }
            depose(&mut leader.etcd);
            assert_eq!(commit.answered(lost()), Progress::Again(Error::Ended));
            let answer = leader.etcd.transact(commit.next());
            let expected = match is_made {
                true => Progress::Committed { revision },
                false => Progress::Rejected(Rejection::TermOver),
            };
            assert_eq!(commit.answered(answer), expected);
        }
    }
}

#[test]
fn a_refusal_is_certain_only_if_no_try_may_be_on_its_way() {
    let mut leader = Leader::new();
    leader.etcd.is_full = true;
    let mut commit = small(&leader);
    let answer = leader.etcd.transact(commit.next());
    assert_eq!(commit.answered(answer), Progress::Rejected(Rejection::Refused(Error::NoSpace)));

    // A try whose answer was lost: etcd says what became of it, and is asked again as long as it may still come.
    let mut commit = small(&leader);
    let late = commit.next().clone();
    assert!(matches!(commit.answered(lost()), Progress::Again(_)));
    let answer = leader.etcd.transact(commit.next());
    assert_eq!(commit.answered(answer), Progress::Again(Error::NoSpace));
    let answer = leader.etcd.transact(commit.next());
    assert!(matches!(commit.answered(answer), Progress::Again(_)), "it may still come");
    leader.etcd.is_full = false;
    let revision = leader.etcd.transact(&late).unwrap().revision;
    leader.etcd.is_full = true;
    let answer = leader.etcd.transact(commit.next());
    assert_eq!(commit.answered(answer), Progress::Again(Error::NoSpace));
    let answer = leader.etcd.transact(commit.next());
    assert_eq!(commit.answered(answer), Progress::Committed { revision });
}

#[test]
fn a_full_etcd_tells_what_became_of_a_commit_once_the_term_is_over() {
    let mut leader = Leader::new();
    let mut commit = small(&leader);
    assert!(matches!(commit.answered(lost()), Progress::Again(_)));
    deposed(&mut leader.etcd);
    leader.etcd.is_full = true;
    let answer = leader.etcd.transact(commit.next());
    assert_eq!(commit.answered(answer), Progress::Again(Error::NoSpace));
    let answer = leader.etcd.transact(commit.next());
    assert_eq!(commit.answered(answer), Progress::Rejected(Rejection::TermOver));
}

#[test]
fn parts_are_written_again_until_they_are_there_and_only_in_our_term() {
    let mut leader = Leader::new();
    let mut commit = commit_of(&leader, many(1, 1, 0..8_000));
    let mut sent = 0;
    let progress = loop {
        let answer = leader.etcd.transact(commit.next());
        sent += 1;
        // The answer to every second one is lost.
        let answer = if sent % 2 == 0 { answer } else { lost() };
        match commit.answered(answer) {
            Progress::Next | Progress::Again(_) => {}
            decided => break decided,
        }
    };
    assert!(matches!(progress, Progress::Committed { .. }), "{progress:?}");
    assert_eq!(leader.watch().len(), 1);
    assert_eq!(leader.loaded().saved("").sessions[0].routes.len(), 8_000);

    let mut leader = Leader::new();
    let mut commit = commit_of(&leader, many(1, 1, 0..8_000));
    let answer = leader.etcd.transact(commit.next());
    assert_eq!(commit.answered(answer), Progress::Next);
    deposed(&mut leader.etcd);
    let answer = leader.etcd.transact(commit.next());
    assert_eq!(commit.answered(answer), Progress::Rejected(Rejection::TermOver));
    assert!(leader.watch().is_empty());
}
