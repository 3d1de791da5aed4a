//! Spreads the probes that go to one address and port, however many want some (SEMANTICS section 3).
//!
//! Checks are cheap for who asks for them and not for who is asked: many sessions, or one with many routes, could ask one
//! backend hundreds of times a second, be it theirs or not. Probes that come too early wait for their turn. The turns go round
//! among those who ask, so that whoever asks much delays himself.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use registry_client::protocol::Host;

/// Identifies a probe in the schedule. Never used twice, so that a late result of a removed probe is not taken for one of a
/// new entry for the same probe.
pub(super) type ProbeNumber = u64;

/// The least time between two probes of one target: ten a second.
pub(super) const TARGET_SPACING: Duration = Duration::from_millis(100);

/// What is asked: a host and its port.
pub(super) type Target = (Host, u16);

/// The targets that were asked not long ago, and the probes that wait for them.
#[derive(Debug, Default)]
pub(super) struct Paces {
    targets: HashMap<Target, Pace>,
    /// When each of these targets may be asked again. They are named by numbers, because hosts have no order.
    free: BTreeSet<(Instant, u64)>,
    names: HashMap<u64, Target>,
    last: u64,
}

#[derive(Debug)]
struct Pace {
    number: u64,
    free_at: Instant,
    /// The probes that wait, by who asks.
    waiting: VecDeque<(IpAddr, VecDeque<ProbeNumber>)>,
}

impl Paces {
    /// Whether a probe may ask its target now. If not, it is kept until [`Paces::next`] returns it.
    pub(super) fn admit(&mut self, target: &Target, asker: IpAddr, number: ProbeNumber) -> bool {
        let Some(pace) = self.targets.get_mut(target) else { return true };
        match pace.waiting.iter_mut().find(|(other, _)| *other == asker) {
            Some((_, queue)) => queue.push_back(number),
            None => pace.waiting.push_back((asker, VecDeque::from([number]))),
        }
        false
    }

    /// A probe of the target starts: the next one comes a little later.
    pub(super) fn started(&mut self, target: Target, now: Instant) {
        let free_at = now + TARGET_SPACING;
        let number = match self.targets.get_mut(&target) {
            Some(pace) => {
                self.free.remove(&(pace.free_at, pace.number));
                pace.free_at = free_at;
                pace.number
            }
            None => {
                self.last += 1;
                let pace = Pace { number: self.last, free_at, waiting: VecDeque::new() };
                self.targets.insert(target.clone(), pace);
                self.names.insert(self.last, target);
                self.last
            }
        };
        self.free.insert((free_at, number));
    }

    /// When [`Paces::next`] may return something.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.free.first().map(|(at, _)| *at)
    }

    /// The next probe that waited and may ask its target now, of those that `is_wanted`. If it does not start, the target
    /// stays free for the next.
    pub(super) fn next(
        &mut self,
        now: Instant,
        is_wanted: impl Fn(ProbeNumber) -> bool,
    ) -> Option<ProbeNumber> {
        while let Some((_, name)) = self.free.first().copied().filter(|(at, _)| *at <= now) {
            let target = self.names.get(&name)?;
            let pace = self.targets.get_mut(target)?;
            while let Some((asker, mut queue)) = pace.waiting.pop_front() {
                let next = std::iter::from_fn(|| queue.pop_front()).find(|number| is_wanted(*number));
                if !queue.is_empty() {
                    pace.waiting.push_back((asker, queue));
                }
                if next.is_some() {
                    return next;
                }
            }
            // Nobody waits: it is as though it was never asked.
            self.free.pop_first();
            if let Some(target) = self.names.remove(&name) {
                self.targets.remove(&target);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        (Host::Ip(IpAddr::from([10, 2, 2, 9])), 80)
    }

    #[test]
    fn whoever_asks_much_delays_himself_and_not_others() {
        let (greedy, modest) = (IpAddr::from([10, 2, 2, 66]), IpAddr::from([10, 2, 2, 9]));
        let (mut paces, mut now) = (Paces::default(), Instant::now());
        assert!(paces.admit(&target(), greedy, 0));
        paces.started(target(), now);
        for number in 1..1000 {
            assert!(!paces.admit(&target(), greedy, number));
        }
        assert!(!paces.admit(&target(), modest, 5000));
        assert_eq!(paces.next(now, |_| true), None);
        let mut order = Vec::new();
        for _ in 0..3 {
            now = paces.wake_at().unwrap();
            order.extend(paces.next(now, |number| number != 2));
            paces.started(target(), now);
        }
        assert_eq!(order, [1, 5000, 3], "and one that nobody wants takes no turn");
    }

    #[test]
    fn a_target_that_nobody_waits_for_is_forgotten() {
        let (mut paces, now) = (Paces::default(), Instant::now());
        paces.started(target(), now);
        assert_eq!(paces.next(now + TARGET_SPACING, |_| true), None);
        assert!(paces.targets.is_empty() && paces.free.is_empty() && paces.names.is_empty());
        assert!(paces.admit(&target(), IpAddr::from([10, 2, 2, 9]), 1));
    }
}
