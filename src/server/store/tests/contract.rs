//! What every store promises, tried with each of them.

use std::task::Poll;
use std::time::Duration;

use crate::server::registry::persist::{SavedSession, SavedState, SessionMarks, StoreChange};
use crate::server::registry::{SessionNo, Tx};

use crate::server::store::MemoryStore;

use super::{Decision, Folder, Store, Story, applied, open};

/// How long a store may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gives a store changes, all at once. Returns its decisions in the order of the changes, each of which it decides once.
pub(in crate::server::store) async fn decide(
    store: &mut dyn Store,
    first: u64,
    changes: Vec<StoreChange>,
) -> Vec<Decision> {
    let mut decisions: Vec<Option<Decision>> = Vec::new();
    for (number, change) in (first..).zip(changes) {
        decisions.push(match store.commit(Tx(number), change) {
            Poll::Ready(decision) => Some(decision),
            Poll::Pending => None,
        });
    }
    while decisions.iter().any(Option::is_none) {
        let next = std::future::poll_fn(|cx| store.poll_decision(cx));
        let (tx, decision) = tokio::time::timeout(PATIENCE, next).await.expect("a decision");
        let place = &mut decisions[usize::try_from(tx.0 - first).unwrap()];
        assert!(place.replace(decision).is_none(), "{tx:?} is decided twice");
    }
    let nothing = std::future::poll_fn(|cx| Poll::Ready(store.poll_decision(cx).is_pending())).await;
    assert!(nothing, "each change is decided once");
    decisions.into_iter().flatten().collect()
}

/// What a store holds after a random story is what the changes make that it has committed.
pub(in crate::server::store) async fn holds_what_it_has_committed(
    store: &mut dyn Store,
    seed: u64,
) -> SavedState {
    println!("seed {seed}");
    let (mut story, mut expected, mut number) = (Story::new(seed), SavedState::default(), 0);
    for _ in 0..12 {
        let changes = story.changes();
        let decisions = decide(store, number, changes.clone()).await;
        number += changes.len() as u64;
        for (change, decision) in changes.iter().zip(decisions) {
            assert_eq!(decision, Decision::Committed);
            expected.apply(change);
        }
    }
    expected
}

fn without_marks(mut sessions: Vec<SavedSession>) -> Vec<SavedSession> {
    sessions.iter_mut().for_each(|saved| saved.marks = SessionMarks::default());
    sessions
}

#[tokio::test]
async fn memory_decides_each_change_once_and_holds_nothing() {
    let mut store = MemoryStore;
    holds_what_it_has_committed(&mut store, fastrand::u64(..)).await;
    assert!(store.take_saved().is_none());
}

#[tokio::test]
async fn a_file_holds_what_it_has_committed() {
    for _ in 0..8 {
        let folder = Folder::new();
        let mut store = open(&folder.file()).unwrap();
        let expected = holds_what_it_has_committed(&mut store, fastrand::u64(..)).await;
        drop(store);
        let saved = open(&folder.file()).unwrap().take_saved().unwrap();
        // A file has one server, which has no use for marks.
        assert_eq!(saved.sessions, without_marks(expected.sessions));
    }
}

#[tokio::test]
async fn a_store_that_is_dropped_writes_what_waits() {
    let folder = Folder::new();
    let mut store = open(&folder.file()).unwrap();
    for no in 1..=50 {
        assert!(store.commit(Tx(no), applied(no, 1, &[])).is_pending());
    }
    let end = store.take_end().unwrap();
    drop(store);
    let _ = end.await;
    let saved = open(&folder.file()).unwrap().take_saved().unwrap();
    let known: Vec<_> = saved.sessions.iter().map(|saved| SessionNo(saved.session.no)).collect();
    assert_eq!(known, (1..=50).map(SessionNo).collect::<Vec<_>>());
}
