//! Who leads, and when nobody may answer: the machine alone, in virtual time.

use std::time::Duration;

use registry_nodes::Error;
use registry_nodes::kv::Fault;

use crate::server::registry::Term;
use crate::server::store::etcd::leadership::{Call, Event, Leadership, Reply, Standing, Time};

const TTL: Duration = Duration::from_secs(6);

fn ms(milliseconds: u64) -> Time {
    Duration::from_millis(milliseconds)
}

fn seconds(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

fn reply(machine: &mut Leadership, reply: Reply, now: Time) {
    machine.on(Event::Answered(reply), now);
}

/// A machine that may stand, while nobody leads.
fn candidate() -> Leadership {
    let mut machine = Leadership::new(TTL, 1);
    assert_eq!(machine.call(ms(0)), None, "it knows nothing yet");
    machine.on(Event::Standing(Standing::Yes), ms(0));
    machine.on(Event::Key { term: None, revision: 5 }, ms(0));
    machine
}

/// A machine that leads since term 7, proven at 0.
fn leader() -> (Leadership, i64) {
    let mut machine = candidate();
    let Some(Call::Grant { lease }) = machine.call(ms(0)) else { panic!() };
    reply(&mut machine, Reply::Granted { ttl: TTL }, ms(0));
    assert_eq!(machine.call(ms(0)), Some(Call::Stand { lease }));
    reply(&mut machine, Reply::Leads { lease, term: Term(7) }, ms(0));
    assert_eq!(machine.term(), Some(Term(7)));
    machine.on(Event::Key { term: Some(Term(7)), revision: 7 }, ms(0));
    (machine, lease)
}

fn away() -> Reply {
    Reply::Failed(Fault::Away(Error::Ended))
}

#[test]
fn it_stands_only_when_nobody_leads_and_it_may() {
    let mut machine = Leadership::new(TTL, 1);
    machine.on(Event::Key { term: Some(Term(3)), revision: 5 }, ms(0));
    machine.on(Event::Standing(Standing::Yes), ms(0));
    assert_eq!(machine.call(seconds(99)), None, "somebody leads");
    machine.on(Event::Key { term: None, revision: 6 }, seconds(99));
    machine.on(Event::Standing(Standing::No), seconds(99));
    assert_eq!(machine.call(seconds(200)), None, "it knows no state that it could lead with");
    machine.on(Event::Standing(Standing::Last), seconds(99));
    assert_eq!(machine.due(seconds(99)), Some(seconds(99) + TTL));
    assert_eq!(machine.call(seconds(99)), None, "another one shall");
    assert!(matches!(machine.call(seconds(99) + TTL), Some(Call::Grant { .. })), "nobody did");
}

#[test]
fn who_comes_second_follows() {
    let mut machine = candidate();
    let Some(Call::Grant { lease }) = machine.call(ms(0)) else { panic!() };
    reply(&mut machine, Reply::Granted { ttl: TTL }, ms(0));
    assert_eq!(machine.call(ms(0)), Some(Call::Stand { lease }));
    reply(&mut machine, Reply::Leads { lease: 1, term: Term(6) }, ms(0));
    assert_eq!((machine.term(), machine.call(ms(0))), (None, None));
}

#[test]
fn an_answer_that_is_lost_is_asked_for_again_and_an_earlier_try_may_have_won() {
    let mut machine = candidate();
    let Some(Call::Grant { lease }) = machine.call(ms(0)) else { panic!() };
    reply(&mut machine, away(), ms(0));
    assert_eq!(machine.call(ms(0)), None, "after a pause");
    let again = machine.due(ms(0)).unwrap();
    assert_eq!(machine.call(again), Some(Call::Grant { lease }), "the same lease");
    reply(&mut machine, Reply::Failed(Fault::LeaseExists), again);
    let next = machine.due(again).unwrap();
    // Nobody knows how old it is.
    assert_eq!(machine.call(next), Some(Call::Resign { lease, term: None }));
    reply(&mut machine, Reply::Resigned, next);
    let Some(Call::Grant { lease }) = machine.call(next) else { panic!() };
    reply(&mut machine, Reply::Granted { ttl: TTL }, next);
    assert_eq!(machine.call(next), Some(Call::Stand { lease }));
    reply(&mut machine, away(), next);
    let next = machine.due(next).unwrap();
    assert_eq!(machine.call(next), Some(Call::Stand { lease }));
    reply(&mut machine, Reply::Leads { lease, term: Term(9) }, next);
    assert_eq!(machine.term(), Some(Term(9)));
}

#[test]
fn the_lease_is_renewed_only_after_a_turn_of_the_registry() {
    let (mut machine, lease) = leader();
    let third = TTL / 3;
    assert!(!machine.wants_turn(third - ms(1)));
    assert!(machine.wants_turn(third));
    assert_eq!(machine.call(third), Some(Call::Prove { term: Term(7) }), "it is no renewal");
    reply(&mut machine, Reply::Proven(true), third);
    assert_eq!(machine.call(third), None);
    machine.on(Event::Turned, third);
    assert_eq!(machine.call(third), Some(Call::Renew { lease }));
    reply(&mut machine, Reply::Renewed, third);
    assert!(!machine.wants_turn(third) && machine.wants_turn(2 * third), "one turn, one renewal");
}

#[test]
fn only_a_linearizable_answer_proves_the_leadership() {
    let (mut machine, lease) = leader();
    assert_eq!(machine.proven_until(), Some(TTL));
    machine.on(Event::Turned, seconds(2));
    assert_eq!(machine.call(seconds(2)), Some(Call::Renew { lease }));
    reply(&mut machine, Reply::Renewed, seconds(2));
    assert_eq!(machine.proven_until(), Some(TTL), "a renewal proves nothing");
    machine.on(Event::Held { sent: seconds(3) }, seconds(4));
    assert_eq!(machine.proven_until(), Some(seconds(3) + TTL), "it counts from when it was asked for");
    machine.on(Event::Held { sent: seconds(1) }, seconds(4));
    assert_eq!(machine.proven_until(), Some(seconds(3) + TTL), "the latest counts");
    assert_eq!(machine.call(seconds(5)), Some(Call::Prove { term: Term(7) }));
    reply(&mut machine, away(), seconds(7));
    assert_eq!(machine.proven_until(), Some(seconds(3) + TTL));
}

#[test]
fn the_ttl_that_etcd_granted_counts() {
    let mut machine = candidate();
    let Some(Call::Grant { lease }) = machine.call(ms(0)) else { panic!() };
    reply(&mut machine, Reply::Granted { ttl: 2 * TTL }, ms(0));
    assert_eq!(machine.call(ms(0)), Some(Call::Stand { lease }));
    reply(&mut machine, Reply::Leads { lease, term: Term(7) }, ms(0));
    assert_eq!(machine.proven_until(), Some(2 * TTL));
}

#[test]
fn a_term_ends_when_its_key_is_gone_and_not_by_what_was_before() {
    let (mut machine, _) = leader();
    machine.on(Event::Key { term: None, revision: 6 }, ms(1));
    assert_eq!(machine.term(), Some(Term(7)), "that was before");
    machine.on(Event::Key { term: Some(Term(9)), revision: 9 }, ms(1));
    assert_eq!(machine.term(), None);
    for reply_of_etcd in [Reply::Proven(false), Reply::Failed(Fault::LeaseLost)] {
        let (mut machine, _) = leader();
        machine.on(Event::Turned, seconds(2));
        assert!(machine.call(seconds(2)).is_some());
        reply(&mut machine, reply_of_etcd, seconds(2));
        assert_eq!((machine.term(), machine.proven_until()), (None, None));
    }
}

#[test]
fn losing_etcd_ends_no_term_but_after_a_ttl_nothing_is_proven() {
    let (mut machine, _) = leader();
    machine.on(Event::Turned, seconds(2));
    let mut now = seconds(2);
    for _ in 0..50 {
        if machine.call(now).is_some() {
            reply(&mut machine, away(), now);
        }
        now = machine.due(now).unwrap();
    }
    assert!(now > TTL);
    assert_eq!(machine.term(), Some(Term(7)));
    assert!(machine.proven_until().unwrap() < now);
}

#[test]
fn a_leader_whose_commits_wait_while_etcd_answers_lets_another_one_try() {
    let (mut machine, lease) = leader();
    machine.on(Event::Waiting(Some(seconds(1))), seconds(1));
    machine.on(Event::Held { sent: seconds(7) }, seconds(7));
    assert_eq!(machine.call(seconds(7)), None, "not yet");
    let stuck = seconds(7) + ms(1);
    assert_eq!(machine.call(stuck), Some(Call::Resign { lease, term: Some(Term(7)) }));
    reply(&mut machine, Reply::Resigned, stuck);
    machine.on(Event::Key { term: None, revision: 8 }, stuck);
    assert_eq!((machine.term(), machine.call(stuck + TTL)), (None, None), "another one has its chance");
    assert!(matches!(machine.call(stuck + 2 * TTL), Some(Call::Grant { .. })));

    // Where etcd answers nothing, another leader would not help.
    let (mut machine, lease) = leader();
    machine.on(Event::Waiting(Some(seconds(1))), seconds(1));
    assert_ne!(machine.call(seconds(20)), Some(Call::Resign { lease, term: Some(Term(7)) }));
}

#[test]
fn a_server_that_stops_gives_up_its_key_and_never_stands_again() {
    let (mut machine, lease) = leader();
    machine.on(Event::Stop, seconds(1));
    assert!(!machine.has_left());
    assert_eq!(machine.call(seconds(1)), Some(Call::Resign { lease, term: Some(Term(7)) }));
    reply(&mut machine, away(), seconds(1));
    let again = machine.due(seconds(1)).unwrap();
    assert_eq!(machine.call(again), Some(Call::Resign { lease, term: Some(Term(7)) }), "until it is done");
    reply(&mut machine, Reply::Resigned, again);
    machine.on(Event::Key { term: None, revision: 9 }, again);
    assert!(machine.has_left() && machine.call(seconds(99)).is_none());

    let mut machine = candidate();
    machine.on(Event::Stop, ms(1));
    assert!(machine.has_left(), "it had nothing");
}
