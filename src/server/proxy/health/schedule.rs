//! Decides which probe runs when (SEMANTICS section 3). It has no clock and no socket: [`super::prober`] has both.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::server::routing::Probe;

/// The least time between the starts of two probes, which allows 500 a second. If more are due, all of them run late by
/// the same, so the intervals stretch.
const SPACING: Duration = Duration::from_millis(2);
/// Probes that run at once. A backend that does not answer occupies one of them for its time-out.
const MAX_RUNNING: usize = 256;
/// The shortest interval. Shorter ones are raised to it.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Each interval is longer or shorter by up to this part of itself, so that probes that started together spread.
const JITTER: f64 = 0.1;

/// The probes that have watchers. Equal probes are one entry.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    ids: HashMap<Arc<Probe>, ProbeNumber>,
    entries: HashMap<ProbeNumber, Entry>,
    /// The probes that do not run now, by the time when they are due.
    waiting: BTreeSet<(Instant, ProbeNumber)>,
    running: usize,
    /// When the next probe may start.
    free_at: Option<Instant>,
    next_number: ProbeNumber,
}

/// Identifies an entry. Never used twice, so that a late result of a removed probe is not taken for one of a new entry
/// for the same probe.
pub(crate) type ProbeNumber = u64;

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

    /// Removes a watcher. The last one removes the probe; if it runs, its result is dropped.
    pub(crate) fn forget(&mut self, probe: &Probe) {
        let Some(number) = self.ids.get(probe).copied() else { return };
        let Some(entry) = self.entries.get_mut(&number) else { return };
        entry.watchers -= 1;
        if entry.watchers == 0 {
            self.waiting.remove(&(entry.due, number));
            self.entries.remove(&number);
            self.ids.remove(probe);
        }
    }

    /// The number of different probes.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Starts the probe that is due first, if one may start now. `draw()` gives a random number from 0 to 1.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        draw: impl FnOnce() -> f64,
    ) -> Option<(ProbeNumber, Arc<Probe>)> {
        if self.wake_at()? > now {
            return None;
        }
        let (_, number) = self.waiting.pop_first()?;
        let entry = self.entries.get_mut(&number)?;
        let stretch = 1.0 + JITTER * (2.0 * draw() - 1.0);
        entry.due = now + entry.probe.interval.max(MIN_INTERVAL).mul_f64(stretch);
        entry.is_running = true;
        self.running += 1;
        self.free_at = Some(now + SPACING);
        Some((number, Arc::clone(&entry.probe)))
    }

    /// Notes that a started probe is over. Returns it if it still has watchers.
    pub(crate) fn finish(&mut self, number: ProbeNumber, now: Instant) -> Option<Arc<Probe>> {
        self.running -= 1;
        let entry = self.entries.get_mut(&number)?;
        entry.is_running = false;
        entry.due = entry.due.max(now);
        self.waiting.insert((entry.due, number));
        Some(Arc::clone(&entry.probe))
    }

    /// When [`Schedule::start`] can start a probe; `None`: not before another method is called.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let (due, _) = self.waiting.first()?;
        if self.running >= MAX_RUNNING {
            return None;
        }
        Some(self.free_at.map_or(*due, |free_at| free_at.max(*due)))
    }
}

#[cfg(test)]
mod tests {
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
        let mut started = Vec::new();
        let mut at = now;
        loop {
            while let Some((end, number)) = running.first().copied().filter(|(end, _)| *end <= at) {
                running.pop_first();
                schedule.finish(number, end);
            }
            if let Some((number, probe)) = schedule.start(at, || rng.f64()) {
                started.push((at - now, probe.backend.port()));
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
        assert_eq!(schedule.finish(old, now), None);
        let (new, _) = schedule.start(now + SPACING, || 0.5).unwrap();
        assert!(schedule.finish(new, now).is_some());
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

    #[test]
    fn at_most_the_allowed_number_runs_at_once() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        for port in 1..=1000 {
            schedule.watch(probe(port, SECOND), now);
        }
        assert_eq!(run(&mut schedule, now, SECOND * 5, SECOND * 60).len(), MAX_RUNNING);
    }
}
