use std::fmt::Write as _;

use super::*;

const TTL: Duration = Duration::from_secs(30);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn machine(on_taken: OnTaken) -> Machine {
    Machine::new("/s/web/n".to_owned(), TTL, on_taken, 7)
}

fn away() -> Fault {
    Fault::Away(Error::TimedOut { endpoint: "e".to_owned(), limit: secs(1) })
}

fn answer(machine: &mut Machine, answer: Answer, now: Time) {
    machine.on(Event::Answered(answer), now);
}

/// A registration in each state that it can be in, all at the time 100 s.
fn situations() -> Vec<(&'static str, Machine)> {
    let at = secs(100);
    let asking = || {
        let mut machine = machine(OnTaken::Wait);
        machine.call(at);
        machine
    };
    let claiming = || {
        let mut machine = asking();
        answer(&mut machine, Answer::Granted { ttl: TTL }, at);
        machine.call(at);
        machine
    };
    let registered = || {
        let mut machine = claiming();
        answer(&mut machine, Answer::Claimed { revision: 10 }, at);
        machine
    };
    let waiting = || {
        let mut machine = claiming();
        answer(&mut machine, Answer::Found { lease: 5, created: 3, revision: 10 }, at);
        machine
    };
    let with = |mut machine: Machine, event| {
        machine.on(event, at);
        machine
    };
    let renewing = || {
        let mut machine = registered();
        // Due at 110 s, and asked for early so that all are in the same moment.
        if let Lease::Held { renew_at, .. } = &mut machine.lease {
            *renew_at = at;
        }
        machine.call(at);
        machine
    };
    let writing = || {
        let mut machine = with(registered(), Event::NewValue);
        machine.call(at);
        machine
    };
    let leaving = || {
        let mut machine = with(registered(), Event::Leave { until: secs(105) });
        machine.call(at);
        machine
    };
    vec![
        ("asking for the lease", asking()),
        ("claiming the key", claiming()),
        ("registered", registered()),
        ("registered, not seeing the key", with(registered(), Event::WatchLost(away()))),
        ("registered, renewing", renewing()),
        ("registered, writing another value", writing()),
        ("waiting for the name", waiting()),
        ("leaving", leaving()),
    ]
}

fn events(machine: &Machine) -> Vec<Event> {
    let lease = machine.lease_id().unwrap_or(0);
    vec![
        Event::Answered(Answer::Granted { ttl: TTL }),
        Event::Answered(Answer::Renewed),
        Event::Answered(Answer::Claimed { revision: 20 }),
        Event::Answered(Answer::Found { lease, created: 20, revision: 21 }),
        Event::Answered(Answer::Found { lease: 5, created: 20, revision: 21 }),
        Event::Answered(Answer::Written),
        Event::Answered(Answer::NotOurs),
        Event::Answered(Answer::Withdrawn),
        Event::Answered(Answer::Failed(Fault::LeaseLost)),
        Event::Answered(Answer::Failed(Fault::LeaseExists)),
        Event::Answered(Answer::Failed(away())),
        Event::Answered(Answer::Failed(Fault::Refused(Error::NoSpace))),
        Event::KeyGone,
        Event::KeyPut { lease, created: 10 },
        Event::KeyPut { lease: 5, created: 22 },
        Event::WatchLost(away()),
        Event::WatchLost(Fault::Compacted),
        Event::NewValue,
        Event::Leave { until: secs(130) },
    ]
}

/// Leases and watches by names that stay the same whatever the random numbers are.
fn told(text: &str, lease: Option<i64>) -> String {
    lease.map_or(text.to_owned(), |lease| text.replace(&lease.to_string(), "OURS"))
}

#[test]
fn every_state_answers_every_event() {
    let mut table = String::new();
    for (index, (name, before)) in situations().into_iter().enumerate() {
        writeln!(table, "{name} ({:?})", before.state(secs(103))).unwrap();
        for event in events(&before) {
            let (_, mut machine) = situations().swap_remove(index);
            let lease = machine.lease_id();
            machine.take_troubles();
            let is_answer = matches!(event, Event::Answered(_));
            if is_answer && machine.pending.is_none() {
                continue;
            }
            let shown = told(&format!("{event:?}"), lease);
            let now = secs(103);
            machine.on(event, now);
            let call = machine.call(now);
            let call =
                call.map_or("-".to_owned(), |call| told(&format!("{call:?}"), lease.or(machine.lease_id())));
            let state = machine.state(now);
            let watched = machine.watched_from().map_or("-".to_owned(), |revision| revision.to_string());
            let troubles = machine.take_troubles().len();
            writeln!(
                table,
                "  {shown}\n    -> {state:?}, asks {call}, watches {watched}, troubles {troubles}"
            )
            .unwrap();
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn a_renewal_is_asked_for_at_a_third_of_the_ttl_and_again_before_half_of_it_is_over() {
    let (_, mut machine) = situations().swap_remove(2);
    assert_eq!(machine.call(secs(109)), None);
    assert_eq!(machine.due(secs(109)), Some(secs(110)));
    let late = secs(110) + renewal_limit(TTL);
    assert!(matches!(machine.call(secs(110)), Some(Call::Renew { .. })));
    answer(&mut machine, Answer::Failed(away()), late);
    let again = machine.due(late).unwrap();
    assert!(again <= secs(100) + TTL / 2, "{again:?}");
    assert!(matches!(machine.call(again), Some(Call::Renew { .. })));
}

#[test]
fn a_lease_that_was_not_renewed_in_time_counts_as_lost_until_it_is() {
    let (_, mut machine) = situations().swap_remove(2);
    assert!(matches!(machine.call(secs(128)), Some(Call::Renew { .. })));
    assert_eq!(machine.state(secs(129)), State::Registered);
    assert_eq!(machine.state(secs(130)), State::Lost);
    assert_eq!(machine.due(secs(129)), Some(secs(130)));
    answer(&mut machine, Answer::Renewed, secs(131));
    assert_eq!(machine.state(secs(131)), State::Registered);
}

#[test]
fn the_first_loss_is_mended_at_once_and_those_that_follow_are_not() {
    let (_, mut machine) = situations().swap_remove(2);
    let now = secs(101);
    machine.on(Event::KeyGone, now);
    assert!(matches!(machine.call(now), Some(Call::Claim { .. })));
    answer(&mut machine, Answer::Claimed { revision: 30 }, now);
    machine.on(Event::KeyGone, now);
    assert_eq!(machine.call(now), None);
    assert!(machine.due(now).is_some_and(|time| time <= now + secs(10)));
}

#[test]
fn an_unknown_outcome_of_the_grant_asks_for_the_same_lease_again() {
    let mut machine = machine(OnTaken::Wait);
    let first = machine.call(secs(0)).unwrap();
    answer(&mut machine, Answer::Failed(away()), secs(1));
    let again = machine.due(secs(1)).unwrap();
    assert_eq!(machine.call(again), Some(first));
    answer(&mut machine, Answer::Failed(Fault::LeaseExists), again);
    // How long it has left, only a renewal tells.
    assert!(matches!(machine.call(again), Some(Call::Renew { .. })));
}

#[test]
fn a_name_that_is_taken_is_refused_where_that_is_asked_for_and_the_lease_given_back() {
    let mut machine = machine(OnTaken::Refuse);
    machine.call(secs(0));
    answer(&mut machine, Answer::Granted { ttl: TTL }, secs(0));
    machine.call(secs(0));
    answer(&mut machine, Answer::Found { lease: 5, created: 3, revision: 9 }, secs(0));
    assert!(matches!(machine.call(secs(0)), Some(Call::Withdraw { created: None, .. })));
    answer(&mut machine, Answer::Withdrawn, secs(0));
    assert_eq!(machine.call(secs(0)), None);
    let taken = Error::NameTaken { key: "/s/web/n".to_owned(), lease: 5 };
    assert_eq!(machine.state(secs(0)), State::Failed(taken));
}

/// An etcd of one key, with leases that expire.
#[derive(Debug, Default)]
struct Model {
    revision: i64,
    /// The leases, and when they end.
    leases: Vec<(i64, Time)>,
    /// The key's lease, its creation and its value.
    key: Option<(i64, i64, u64)>,
}

impl Model {
    fn expire(&mut self, now: Time) {
        self.leases.retain(|(_, until)| *until > now);
        let leases: Vec<i64> = self.leases.iter().map(|(lease, _)| *lease).collect();
        if self.key.is_some_and(|(lease, ..)| !leases.contains(&lease)) {
            self.revision += 1;
            self.key = None;
        }
    }

    fn revoke(&mut self, lease: i64, now: Time) {
        self.leases.retain(|(held, _)| *held != lease);
        self.expire(now);
    }

    fn carry_out(&mut self, call: Call, now: Time) -> Answer {
        let has = |model: &Model, lease| model.leases.iter().any(|(held, _)| *held == lease);
        match call {
            Call::Grant { lease } if has(self, lease) => Answer::Failed(Fault::LeaseExists),
            Call::Grant { lease } => {
                self.leases.push((lease, now + TTL));
                Answer::Granted { ttl: TTL }
            }
            Call::Withdraw { lease, .. } => {
                self.revoke(lease, now);
                Answer::Withdrawn
            }
            Call::Renew { lease } | Call::Claim { lease, .. } | Call::Write { lease, .. }
                if !has(self, lease) =>
            {
                Answer::Failed(Fault::LeaseLost)
            }
            Call::Renew { lease } => {
                self.leases.retain(|(held, _)| *held != lease);
                self.leases.push((lease, now + TTL));
                Answer::Renewed
            }
            Call::Claim { lease, version } => match self.key {
                Some((lease, created, _)) => Answer::Found { lease, created, revision: self.revision },
                None => {
                    self.revision += 1;
                    self.key = Some((lease, self.revision, version));
                    Answer::Claimed { revision: self.revision }
                }
            },
            Call::Write { lease, created, version } => match self.key {
                Some((held, at, _)) if (held, at) == (lease, created) => {
                    self.revision += 1;
                    self.key = Some((lease, created, version));
                    Answer::Written
                }
                _ => Answer::NotOurs,
            },
        }
    }
}

const OTHER: i64 = 5;

/// Faults of every kind for ten minutes, then none: the node is there a TTL later with its newest value. Until then,
/// another's node is never touched, and a state that says "registered" is true unless the watch is behind.
#[test]
fn whatever_happens_the_node_is_there_soon_after_it_ended() {
    for seed in 0..400 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut machine = Machine::new("k".to_owned(), TTL, OnTaken::Wait, seed);
        let (mut etcd, mut now) = (Model::default(), Duration::ZERO);
        // What the machine's watch has not told yet: it is told before anything else unless it is lost.
        let mut known: Option<Option<(i64, i64, u64)>> = None;
        let mut watching: Option<i64> = None;
        let quiet = secs(600);
        let end = quiet + TTL + secs(20);
        while now < end {
            etcd.expire(now);
            let calm = now >= quiet;
            if !calm {
                match rng.u32(0..60) {
                    0 => {
                        if let Some(lease) = machine.lease_id() {
                            etcd.revoke(lease, now);
                        }
                    }
                    1 if etcd.key.is_some() => {
                        etcd.revision += 1;
                        etcd.key = None;
                    }
                    2 => {
                        etcd.revision += 1;
                        etcd.revoke(OTHER, now);
                        etcd.leases.push((OTHER, now + secs(rng.u64(1..40))));
                        etcd.key = Some((OTHER, etcd.revision, 0));
                    }
                    3 => machine.on(Event::NewValue, now),
                    4 => {
                        machine.on(Event::WatchLost(away()), now);
                        (known, watching) = (None, None);
                    }
                    _ => {}
                }
            }
            if machine.watched_from() != watching {
                watching = machine.watched_from();
                // A new watch begins with all that has happened since the revision at which the key was seen.
                known = None;
            }
            if watching.is_some() && known != Some(etcd.key) && (calm || rng.bool()) {
                known = Some(etcd.key);
                match etcd.key {
                    None => machine.on(Event::KeyGone, now),
                    Some((lease, created, _)) => machine.on(Event::KeyPut { lease, created }, now),
                }
            }
            let before = etcd.key;
            if let Some(call) = machine.call(now) {
                let was_theirs = before.is_some_and(|(lease, ..)| lease == OTHER);
                let outcome = if calm { 9 } else { rng.u32(0..10) };
                let answer = match outcome {
                    0 => Answer::Failed(away()),
                    // It was done, and nobody heard of it.
                    1 => {
                        etcd.carry_out(call, now);
                        Answer::Failed(away())
                    }
                    2 => Answer::Failed(Fault::Refused(Error::NoSpace)),
                    _ => etcd.carry_out(call, now),
                };
                if was_theirs {
                    assert_eq!(etcd.key, before, "seed {seed}: {call:?} touched another's node");
                }
                machine.on(Event::Answered(answer), now);
            }
            machine.take_troubles();
            // At most a quarter of a second passes, as a shell's timers would have it where nothing is due earlier.
            let step = now + Duration::from_millis(rng.u64(1..250));
            now = machine.due(now).map_or(step, |due| due.min(step)).max(now + Duration::from_millis(1));
        }
        let lease = machine.lease_id();
        let newest = machine.version;
        let (held, _, value) = etcd.key.unwrap_or_else(|| panic!("seed {seed}: no node"));
        assert_eq!((Some(held), value), (lease, newest), "seed {seed}");
        assert_eq!(machine.state(now), State::Registered, "seed {seed}");
    }
}

/// Wherever it is when it is asked to leave, nothing of it stays in etcd that has not been another's already.
#[test]
fn whoever_leaves_leaves_nothing_behind() {
    for (name, mut machine) in situations().into_iter().take(7) {
        let mut etcd = Model::default();
        let lease = machine.lease_id().unwrap();
        etcd.leases.push((lease, secs(200)));
        etcd.key = machine.created().map(|created| (lease, created, 1));
        machine.on(Event::Leave { until: secs(120) }, secs(110));
        while let Some(call) = machine.call(secs(110)) {
            let answer = etcd.carry_out(call, secs(110));
            machine.on(Event::Answered(answer), secs(110));
        }
        assert_eq!(machine.state(secs(110)), State::Deregistered, "{name}");
        assert_eq!((etcd.key, etcd.leases.len()), (None, 0), "{name}");
    }
}
