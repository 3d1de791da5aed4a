//! Which probe is due when (SEMANTICS section 3). No clock, no socket: [`super::prober`] has those.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::server::routing::Probe;

/// From the start of one probe to the next of any: at most 500 a second. With more to do than that, every
/// probe is late by the same, so the intervals stretch.
const SPACING: Duration = Duration::from_millis(2);
/// Probes that run at once. Backends that do not answer hold them for their time-outs.
const MAX_RUNNING: usize = 256;
/// No probe is repeated sooner, whatever its interval says.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Intervals vary by this part of themselves both ways, so that what began together does not stay so.
const JITTER: f64 = 0.1;

/// The probes that somebody wants, each once however many want it.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    ids: HashMap<Arc<Probe>, ProbeNumber>,
    entries: HashMap<ProbeNumber, Entry>,
    /// Those that do not run, the one due first in front.
    waiting: BTreeSet<(Instant, ProbeNumber)>,
    running: usize,
    /// When the next may start.
    free_at: Option<Instant>,
    next_number: ProbeNumber,
}

/// Never used twice, so that the result of a probe that was forgotten and wanted again is not taken for the
/// new one's.
pub(super) type ProbeNumber = u64;

#[derive(Debug)]
struct Entry {
    probe: Arc<Probe>,
    watchers: usize,
    /// When it is due; while it runs, when it will be due again.
    due: Instant,
    runs: bool,
}

impl Schedule {
    /// One more wants to know. A probe that waits is due at once, because whoever is new knows nothing yet.
    pub(super) fn watch(&mut self, probe: Probe, now: Instant) {
        if let Some(number) = self.ids.get(&probe) {
            let number = *number;
            if let Some(entry) = self.entries.get_mut(&number) {
                entry.watchers += 1;
                if !entry.runs && self.waiting.remove(&(entry.due, number)) {
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
        self.entries.insert(number, Entry { probe, watchers: 1, due: now, runs: false });
        self.waiting.insert((now, number));
    }

    /// One less wants to know; after the last one the probe is gone, and the result of a running one too.
    pub(super) fn forget(&mut self, probe: &Probe) {
        let Some(number) = self.ids.get(probe).copied() else { return };
        let Some(entry) = self.entries.get_mut(&number) else { return };
        entry.watchers -= 1;
        if entry.watchers == 0 {
            self.waiting.remove(&(entry.due, number));
            self.entries.remove(&number);
            self.ids.remove(probe);
        }
    }

    /// How many different ones are wanted.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The probe to start now, if one is due and there is room. `draw()` is a random number from 0 to 1.
    pub(super) fn start(
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
        entry.runs = true;
        self.running += 1;
        self.free_at = Some(now + SPACING);
        Some((number, Arc::clone(&entry.probe)))
    }

    /// A probe that was started is over. Returns it if its result is still wanted.
    pub(super) fn finish(&mut self, number: ProbeNumber, now: Instant) -> Option<Arc<Probe>> {
        self.running -= 1;
        let entry = self.entries.get_mut(&number)?;
        entry.runs = false;
        entry.due = entry.due.max(now);
        self.waiting.insert((entry.due, number));
        Some(Arc::clone(&entry.probe))
    }

    /// When [`Schedule::start`] will have something to start; `None`: not before something else happens.
    pub(super) fn wake_at(&self) -> Option<Instant> {
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
    fn equal_probes_are_one_until_nobody_wants_it() {
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
    fn whoever_is_new_need_not_wait_for_an_interval() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.watch(probe(1, SECOND * 30), now);
        run(&mut schedule, now, SECOND, Duration::ZERO);
        let later = now + SECOND * 3;
        assert!(schedule.start(later, || 0.5).is_none());
        schedule.watch(probe(1, SECOND * 30), later);
        assert!(schedule.start(later, || 0.5).is_some());
    }

    #[test]
    fn the_result_of_a_forgotten_probe_is_nobodys_even_if_it_is_wanted_again() {
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
    fn so_many_run_at_once_and_no_more() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        for port in 1..=1000 {
            schedule.watch(probe(port, SECOND), now);
        }
        assert_eq!(run(&mut schedule, now, SECOND * 5, SECOND * 60).len(), MAX_RUNNING);
    }
}
