//! Decides which probe runs when (SEMANTICS section 3). It has no clock and no socket: [`super::prober`] has both.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::server::routing::Probe;
use registry_client::protocol::Host;

use super::pace::{Paces, ProbeNumber, Target};

/// The least time between the starts of two probes, which allows 500 a second. If more are due, all of them run late by
/// the same, so the intervals stretch.
const SPACING: Duration = Duration::from_millis(2);
/// Probes that run at once. A backend that does not answer occupies one of them for its time-out.
const MAX_RUNNING: usize = 256;
/// The shortest interval. Shorter ones are raised to it.
pub(super) const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time-out. Longer ones are cut to it, so that a backend that does not answer gives its place back.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// Each interval is longer or shorter by up to this part of itself, so that probes that started together spread.
const JITTER: f64 = 0.1;

/// The probes that have watchers. Equal probes are one entry.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    ids: HashMap<Arc<Probe>, ProbeNumber>,
    entries: HashMap<ProbeNumber, Entry>,
    /// The probes that do not run now, by the time when they are due.
    waiting: BTreeSet<(Instant, ProbeNumber)>,
    /// How many run: of all, and of those who share a [`Party`].
    running: usize,
    parties: HashMap<Party, Share>,
    paces: Paces,
    /// When the next probe may start.
    free_at: Option<Instant>,
    next_number: ProbeNumber,
}

/// With whom a probe shares its part of the places: with all that sessions from one address ask, and with all that is
/// asked of one address.
///
/// Each party may have as many places as are free. One that never answers thus leaves half of them to others, two leave a
/// third, and a newcomer always finds one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Party {
    Asking(IpAddr),
    Asked(Host),
}

#[derive(Debug, Default)]
struct Share {
    running: usize,
    /// Probes that are due and wait until this party has a smaller part of the places.
    parked: VecDeque<ProbeNumber>,
}

fn parties(probe: &Probe) -> [Party; 2] {
    [Party::Asking(probe.peer), Party::Asked(probe.backend.host().clone())]
}

#[derive(Debug)]
struct Entry {
    probe: Arc<Probe>,
    watchers: usize,
    /// When it is due; while it runs, when it will be due again.
    due: Instant,
    is_running: bool,
}

impl Schedule {
    /// Adds a watcher. The probe becomes due at once, because the new watcher has no result yet.
    pub(crate) fn watch(&mut self, probe: Probe, now: Instant) {
        if let Some(number) = self.ids.get(&probe) {
            let number = *number;
            if let Some(entry) = self.entries.get_mut(&number) {
                entry.watchers += 1;
                if !entry.is_running && self.waiting.remove(&(entry.due, number)) {
                    entry.due = entry.due.min(now);
                    self.waiting.insert((entry.due, number));
                }
            }
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        let probe = Arc::new(probe);
        self.ids.insert(Arc::clone(&probe), number);
        self.entries.insert(number, Entry { probe, watchers: 1, due: now, is_running: false });
        self.waiting.insert((now, number));
    }

    /// Removes a watcher. The last one removes the probe; if it runs, its result is dropped. Returns the number of a probe
    /// that runs for nobody now, which the caller should end.
    pub(crate) fn forget(&mut self, probe: &Probe) -> Option<ProbeNumber> {
        let number = self.ids.get(probe).copied()?;
        let entry = self.entries.get_mut(&number)?;
        entry.watchers -= 1;
        if entry.watchers > 0 {
            return None;
        }
        let is_running = entry.is_running;
        self.waiting.remove(&(entry.due, number));
        self.entries.remove(&number);
        self.ids.remove(probe);
        is_running.then_some(number)
    }

    /// The number of different probes.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Starts the probe that is due first, if one may start now. `draw()` gives a random number from 0 to 1.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        mut draw: impl FnMut() -> f64,
    ) -> Option<(ProbeNumber, Arc<Probe>)> {
        while self.wake_at()? <= now {
            let number = match self.next_due(now) {
                Some(number) => number,
                None => continue,
            };
            let Some(entry) = self.entries.get_mut(&number) else { continue };
            let free = MAX_RUNNING - self.running;
            let parties = parties(&entry.probe);
            if let Some(full) = parties.iter().find(|party| running(&self.parties, party) >= free) {
                self.parties.entry(full.clone()).or_default().parked.push_back(number);
                continue;
            }
            let stretch = 1.0 + JITTER * (2.0 * draw() - 1.0);
            entry.due = now + entry.probe.interval.max(MIN_INTERVAL).mul_f64(stretch);
            entry.is_running = true;
            self.running += 1;
            for party in parties {
                self.parties.entry(party).or_default().running += 1;
            }
            self.free_at = Some(now + SPACING);
            let probe = Arc::clone(&entry.probe);
            self.paces.started(target(&probe), now);
            return Some((number, probe));
        }
        None
    }

    /// The probe that is due next and whose target may be asked now. `None`: the one that was due waits for its target, or
    /// a target has become free for which none waited.
    fn next_due(&mut self, now: Instant) -> Option<ProbeNumber> {
        let entries = &self.entries;
        if let Some(number) = self.paces.next(now, |number| entries.contains_key(&number)) {
            return Some(number);
        }
        let (due, number) = self.waiting.first().copied()?;
        if due > now {
            return None;
        }
        self.waiting.pop_first();
        let probe = &self.entries.get(&number)?.probe;
        self.paces.admit(&target(probe), probe.peer, number).then_some(number)
    }

    /// Notes that a started probe is over. Returns it if it still has watchers.
    pub(crate) fn finish(&mut self, number: ProbeNumber, probe: &Probe, now: Instant) -> Option<Arc<Probe>> {
        self.running -= 1;
        for party in parties(probe) {
            self.give_back(party);
        }
        let entry = self.entries.get_mut(&number)?;
        entry.is_running = false;
        entry.due = entry.due.max(now);
        self.waiting.insert((entry.due, number));
        Some(Arc::clone(&entry.probe))
    }

    /// A probe of this party is over. Of those that were parked for it two are considered again, so that it can grow if
    /// others have less now, or all, if none of it is left to wake them.
    fn give_back(&mut self, party: Party) {
        let Some(share) = self.parties.get_mut(&party) else { return };
        share.running -= 1;
        let count = if share.running == 0 { share.parked.len() } else { share.parked.len().min(2) };
        for number in share.parked.drain(..count) {
            if let Some(entry) = self.entries.get(&number).filter(|entry| !entry.is_running) {
                self.waiting.insert((entry.due, number));
            }
        }
        if share.running == 0 {
            self.parties.remove(&party);
        }
    }

    /// When [`Schedule::start`] can start a probe; `None`: not before another method is called.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let due = self.waiting.first().map(|(due, _)| *due).into_iter().chain(self.paces.wake_at()).min()?;
        if self.running >= MAX_RUNNING {
            return None;
        }
        Some(self.free_at.map_or(due, |free_at| free_at.max(due)))
    }
}

fn target(probe: &Probe) -> Target {
    (probe.backend.host().clone(), probe.backend.port())
}

fn running(parties: &HashMap<Party, Share>, party: &Party) -> usize {
    parties.get(party).map_or(0, |share| share.running)
}

#[cfg(test)]
mod tests {
    use super::super::pace::TARGET_SPACING;
    use super::*;
    use crate::server::routing::ProbeKind;

    const SECOND: Duration = Duration::from_secs(1);

    fn probe(port: u16, interval: Duration) -> Probe {
        Probe {
            backend: format!("http://10.2.2.7:{port}").parse().unwrap(),
            peer: "10.2.2.7".parse().unwrap(),
            kind: ProbeKind::Connect,
            interval,
            timeout: SECOND,
        }
    }

    /// Runs the schedule for `time`, each probe taking `takes`; returns when each was started.
    fn run(schedule: &mut Schedule, now: Instant, time: Duration, takes: Duration) -> Vec<(Duration, u16)> {
        let mut rng = fastrand::Rng::with_seed(11);
        let mut running: BTreeSet<(Instant, ProbeNumber)> = BTreeSet::new();
        let mut probes: HashMap<ProbeNumber, Arc<Probe>> = HashMap::new();
        let mut started = Vec::new();
        let mut at = now;
        loop {
            while let Some((end, number)) = running.first().copied().filter(|(end, _)| *end <= at) {
                running.pop_first();
                schedule.finish(number, &probes[&number], end);
            }
            if let Some((number, probe)) = schedule.start(at, || rng.f64()) {
                started.push((at - now, probe.backend.port()));
                probes.insert(number, probe);
                running.insert((at + takes, number));
                continue;
            }
            let next = schedule.wake_at().into_iter().chain(running.first().map(|(end, _)| *end)).min();
            match next {
                Some(next) if next <= now + time => at = next,
                _ => return started,
            }
        }
    }

    #[test]
    fn a_probe_runs_at_once_and_then_every_interval_give_or_take_a_tenth() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.watch(probe(1, SECOND), now);
        let started = run(&mut schedule, now, SECOND * 100, Duration::from_millis(5));
        assert_eq!(started[0].0, Duration::ZERO);
        assert!((91..=111).contains(&started.len()), "seed 11: {}", started.len());
        let gaps: Vec<_> = started.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        let allowed = Duration::from_millis(900)..=Duration::from_millis(1100);
        assert!(gaps.iter().all(|gap| allowed.contains(gap)), "seed 11: {gaps:?}");
        assert!(gaps.iter().collect::<BTreeSet<_>>().len() > 50, "they must differ");
    }

    #[test]
    fn one_address_and_port_is_asked_ten_times_a_second_however_many_want_it() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let check = |peer: &str, n: u16| Probe {
            kind: ProbeKind::Get { path: format!("/{n}").parse().unwrap(), host: None, statuses: None },
            ..of(peer, "10.2.2.9", 80)
        };
        (0..990).for_each(|n| schedule.watch(check("10.2.2.66", n), now));
        schedule.watch(of("10.2.2.66", "10.2.2.9", 81), now);
        schedule.watch(check("10.2.2.9", 0), now);
        let started = run(&mut schedule, now, SECOND * 10, Duration::from_millis(5));
        let at_80 = started.iter().filter(|(_, port)| *port == 80).count();
        assert!((95..=101).contains(&at_80), "{at_80}");
        let at_81 = started.iter().filter(|(_, port)| *port == 81).count();
        assert!((9..=12).contains(&at_81), "another port is another backend: {at_81}");
    }

    #[test]
    fn equal_probes_are_one_entry_until_the_last_watcher_leaves() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.watch(probe(1, SECOND), now);
        schedule.watch(probe(1, SECOND), now);
        assert_eq!(run(&mut schedule, now, Duration::from_millis(500), Duration::ZERO).len(), 1);
        schedule.forget(&probe(1, SECOND));
        assert!(schedule.wake_at().is_some());
        schedule.forget(&probe(1, SECOND));
        schedule.forget(&probe(1, SECOND));
        assert_eq!(schedule.wake_at(), None);
    }

    #[test]
    fn a_new_watcher_does_not_wait_for_an_interval() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.watch(probe(1, SECOND * 30), now);
        run(&mut schedule, now, SECOND, Duration::ZERO);
        let later = now + SECOND * 3;
        assert!(schedule.start(later, || 0.5).is_none());
        schedule.watch(probe(1, SECOND * 30), later);
        assert!(schedule.start(later, || 0.5).is_some());
    }

    #[test]
    fn the_result_of_a_removed_probe_is_dropped_even_if_it_is_added_again() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.watch(probe(1, SECOND), now);
        let (old, _) = schedule.start(now, || 0.5).unwrap();
        schedule.forget(&probe(1, SECOND));
        schedule.watch(probe(1, SECOND), now);
        assert_eq!(schedule.finish(old, &probe(1, SECOND), now), None);
        let (new, _) = schedule.start(now + TARGET_SPACING, || 0.5).unwrap();
        assert!(schedule.finish(new, &probe(1, SECOND), now).is_some());
    }

    #[test]
    fn a_probe_that_takes_longer_than_its_interval_is_not_started_twice() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.watch(probe(1, SECOND), now);
        let started = run(&mut schedule, now, SECOND * 10, SECOND * 3);
        assert_eq!(started.len(), 4);
    }

    #[test]
    fn beyond_500_a_second_the_intervals_stretch_for_all_alike() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        for port in 1..=2000 {
            schedule.watch(probe(port, SECOND), now);
        }
        let started = run(&mut schedule, now, SECOND * 20, Duration::from_millis(50));
        for second in 0..20 {
            let count = started.iter().filter(|(at, _)| at.as_secs() == second).count();
            assert!((499..=500).contains(&count), "second {second}: {count}");
        }
        let mut counts = HashMap::new();
        for (_, port) in &started {
            *counts.entry(*port).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 2000);
        assert!(counts.values().all(|count| (4..=6).contains(count)), "seed 11");
    }

    fn of(peer: &str, backend: &str, port: u16) -> Probe {
        let backend = format!("http://{backend}:{port}").parse().unwrap();
        Probe { backend, peer: peer.parse().unwrap(), ..probe(port, SECOND) }
    }

    #[test]
    fn at_most_the_allowed_number_runs_at_once() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        for n in 0..=250 {
            for port in 1..=4 {
                schedule.watch(of(&format!("10.2.3.{n}"), &format!("10.2.4.{n}"), port), now);
            }
        }
        let started = run(&mut schedule, now, SECOND * 5, SECOND * 60).len();
        assert!((MAX_RUNNING - 2..=MAX_RUNNING).contains(&started), "{started}");
    }

    /// Whoever asks much, or of whom much is asked, and never answers leaves places to others.
    #[test]
    fn no_party_takes_all_places() {
        type Silent = fn(u16) -> Probe;
        let one_session: Silent = |n| of("10.2.2.66", &format!("10.3.{}.{}", n / 250, n % 250), 80);
        let one_target: Silent = |n| of(&format!("10.3.{}.{}", n / 250, n % 250), "10.2.2.66", n);
        let both: Silent = |n| of("10.2.2.66", "10.2.2.67", n);
        for silent in [one_session, one_target, both] {
            let (mut schedule, now) = (Schedule::default(), Instant::now());
            (1..=1000).for_each(|n| schedule.watch(silent(n), now));
            let started = run(&mut schedule, now, SECOND * 5, SECOND * 60).len();
            assert_eq!(started, MAX_RUNNING / 2);
            let later = now + SECOND * 5;
            schedule.watch(of("10.2.2.7", "10.2.2.7", 8080), later);
            let (_, newcomer) = schedule.start(later, || 0.5).unwrap();
            assert_eq!(newcomer.backend.port(), 8080);
        }
    }

    #[test]
    fn what_was_parked_runs_as_places_are_given_back() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        (1..=300).for_each(|port| schedule.watch(of("10.2.2.66", "10.2.2.66", port), now));
        let started = run(&mut schedule, now, SECOND * 20, SECOND * 5);
        let ports: BTreeSet<u16> = started.iter().map(|(_, port)| *port).collect();
        assert_eq!(ports.len(), 300, "each has its turn");
    }

    #[test]
    fn a_forgotten_probe_that_runs_is_named_so_that_it_can_be_ended() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.watch(probe(1, SECOND), now);
        schedule.watch(probe(1, SECOND), now);
        let (number, started) = schedule.start(now, || 0.5).unwrap();
        assert_eq!(schedule.forget(&started), None, "somebody else wants it");
        assert_eq!(schedule.forget(&started), Some(number));
        assert_eq!(schedule.finish(number, &started, now), None);
        assert!(schedule.parties.is_empty() && schedule.running == 0);
    }
}
