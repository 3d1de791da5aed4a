//! Chooses the member that gets a request: of two at random, the one with fewer requests in flight.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::claim::Claim;
use super::member::{Member, MemberId};

/// How finely the part is counted that a draining member takes of its usual requests.
const PARTS: usize = 1000;

impl Claim {
    /// The index of a usable member other than `tried` whose circuit breaker lets requests through; `None` if there is
    /// none. `draw(n)` gives a random number below `n`.
    ///
    /// Two members are drawn and the one with fewer requests in flight is taken, which spreads load nearly as well as
    /// comparing all of them. Where members have weights or drain, one is drawn by its weight alone. Ejected members are
    /// chosen only if there are no others, because a member that may be dead is better than none. Members that cannot be
    /// connected to are not chosen: [`Claim::unreachable`] has them. Members without weight are not chosen either.
    pub fn choose(
        &self,
        tried: Option<MemberId>,
        now: Instant,
        draw: &mut impl FnMut(usize) -> usize,
    ) -> Option<usize> {
        let possible = |member: &Member| {
            member.may_be_asked(tried, now)
                && !member.load.is_unreachable()
                && member.terms.settings.weight.get() > 0
        };
        let good = |member: &Member| possible(member) && !member.load.is_ejected(now);
        if let [only] = &*self.members {
            return possible(only).then_some(0);
        }
        if self.members.are_weighted() {
            return self.one_by_weight(good, now, draw).or_else(|| self.better_of_two_among(possible, draw));
        }
        self.better_of_any_two(good, draw)
            .or_else(|| self.better_of_two_among(good, draw))
            .or_else(|| self.better_of_two_among(possible, draw))
    }

    /// Draws one of the good members by its weight. A member that drains takes only its part of what it is drawn for; the
    /// others get the rest, as their weights and their own drains say.
    fn one_by_weight(
        &self,
        good: impl Fn(&Member) -> bool,
        now: Instant,
        draw: &mut impl FnMut(usize) -> usize,
    ) -> Option<usize> {
        let weight = |member: &Member| if good(member) { weight(member) } else { 0 };
        let first = self.one_by_share(weight, draw)?;
        let own = part(&self.members[first], now);
        if own >= PARTS || draw(PARTS) < own {
            return Some(first);
        }
        let is_first = |member: &Member| member.endpoint.id == self.members[first].endpoint.id;
        let rest = |member: &Member| if is_first(member) { 0 } else { weight(member) * part(member, now) };
        self.one_by_share(rest, draw).or(Some(first))
    }

    /// Draws one of the members so that each is drawn as often as its share says.
    fn one_by_share(
        &self,
        share: impl Fn(&Member) -> usize,
        draw: &mut impl FnMut(usize) -> usize,
    ) -> Option<usize> {
        let total: usize = self.members.iter().map(&share).sum();
        let mut drawn = if total > 0 { draw(total) } else { return None };
        // Another core may have ejected one meanwhile; then nobody is found, as if all had been ejected.
        self.members.iter().position(|member| {
            let share = share(member);
            let is_drawn = drawn < share;
            drawn = drawn.saturating_sub(share);
            is_drawn
        })
    }

    /// The members other than `tried` that could have the request if they could be connected to.
    pub fn unreachable(&self, tried: Option<MemberId>, now: Instant) -> impl Iterator<Item = usize> {
        let is_waited_for =
            move |member: &Member| member.may_be_asked(tried, now) && member.load.is_unreachable();
        let members = self.members.iter().enumerate();
        members.filter(move |(_, member)| is_waited_for(member)).map(|(at, _)| at)
    }

    /// Whether a member takes no new requests although this snapshot shows it as usable. The next snapshot will not.
    pub fn is_closing(&self) -> bool {
        self.members.iter().any(|member| member.usable && member.load.is_closed())
    }

    /// Whether any member is usable.
    pub fn has_usable(&self) -> bool {
        self.members.iter().any(|member| member.usable)
    }

    /// Draws two of all members; `None` if one of them is not good. The usual case, whose cost does not depend on the
    /// number of members.
    fn better_of_any_two(
        &self,
        good: impl Fn(&Member) -> bool,
        draw: &mut impl FnMut(usize) -> usize,
    ) -> Option<usize> {
        let (one, other) = two_of(self.members.len(), draw)?;
        (good(&self.members[one]) && good(&self.members[other])).then(|| self.less_busy(one, other))
    }

    /// Draws two of the members that are good.
    fn better_of_two_among(
        &self,
        good: impl Fn(&Member) -> bool,
        draw: &mut impl FnMut(usize) -> usize,
    ) -> Option<usize> {
        let all = || (0..self.members.len()).filter(|at| good(&self.members[*at]));
        let nth = |n: usize| all().nth(n);
        match two_of(all().count(), draw) {
            // Another core may have ejected one meanwhile; take the other.
            Some((one, other)) => match (nth(one), nth(other)) {
                (Some(one), Some(other)) => Some(self.less_busy(one, other)),
                (one, other) => one.or(other),
            },
            None => nth(0),
        }
    }

    fn less_busy(&self, one: usize, other: usize) -> usize {
        let busy = |at: usize| self.members[at].load.in_flight.load(Ordering::Relaxed);
        if busy(other) < busy(one) { other } else { one }
    }
}

fn weight(member: &Member) -> usize {
    usize::from(member.terms.settings.weight.get())
}

/// Which part of its usual requests a member takes, in [`PARTS`]: less than all while it drains.
fn part(member: &Member, now: Instant) -> usize {
    member.terms.drain.as_ref().map_or(PARTS, |drain| (drain.weight(now) * PARTS as f64) as usize)
}

/// Two different numbers below `count`, in random order.
fn two_of(count: usize, draw: &mut impl FnMut(usize) -> usize) -> Option<(usize, usize)> {
    if count < 2 {
        return None;
    }
    let one = draw(count);
    let other = (one + 1 + draw(count - 1)) % count;
    Some((one, other))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{claim, member, unusable};
    use super::super::{Chosen, InFlight, Outcome};
    use super::*;
    use std::sync::Arc;

    fn of(members: Vec<Member>) -> Claim {
        Claim { members: members.into(), ..claim("example.com", "/", 10) }
    }

    fn in_flight(member: &Member) -> InFlight {
        InFlight::admit(Chosen::Page(Arc::new(member.clone()))).unwrap()
    }

    /// How often each id is chosen in many draws.
    fn tally(claim: &Claim, tried: Option<u64>, now: Instant) -> Vec<(u64, usize)> {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..3000 {
            if let Some(at) = claim.choose(tried.map(MemberId), now, &mut |n| rng.usize(..n)) {
                *counts.entry(claim.members[at].id.0).or_default() += 1;
            }
        }
        counts.into_iter().collect()
    }

    fn eject(member: &Member, now: Instant) {
        for _ in 0..5 {
            member.load.record(Outcome::Failed, now);
        }
        assert!(member.load.is_ejected(now));
    }

    #[test]
    fn idle_members_get_about_the_same() {
        let counts = tally(&of((1..=3).map(member).collect()), None, Instant::now());
        assert_eq!(counts.len(), 3);
        assert!(counts.iter().all(|(_, count)| (850..1150).contains(count)), "seed 7: {counts:?}");
    }

    #[test]
    fn of_two_the_one_with_fewer_requests_is_chosen() {
        let claim = of(vec![member(1), member(2)]);
        let guard = in_flight(&claim.members[0]);
        assert_eq!(tally(&claim, None, Instant::now()), [(2, 3000)]);
        drop(guard);
        assert_eq!(tally(&claim, None, Instant::now()).len(), 2);
    }

    #[test]
    fn the_busiest_of_many_is_never_chosen() {
        let claim = of((1..=5).map(member).collect());
        let _guard = in_flight(&claim.members[2]);
        assert!(tally(&claim, None, Instant::now()).iter().all(|(id, _)| *id != 3));
    }

    #[test]
    fn unusable_and_tried_members_are_never_chosen() {
        let now = Instant::now();
        assert_eq!(tally(&of(vec![unusable(1)]), None, now), []);
        assert_eq!(tally(&of(vec![]), None, now), []);
        assert_eq!(tally(&of(vec![unusable(1), unusable(2), unusable(3)]), None, now), []);
        assert_eq!(tally(&of(vec![unusable(1), member(2), unusable(3)]), None, now), [(2, 3000)]);
        assert_eq!(tally(&of(vec![member(1), member(2)]), Some(1), now), [(2, 3000)]);
        assert_eq!(tally(&of(vec![member(1)]), Some(1), now), []);
        assert_eq!(tally(&of(vec![member(1), unusable(2)]), Some(1), now), []);
    }

    #[test]
    fn ejected_members_are_chosen_only_if_there_is_no_other() {
        let now = Instant::now();
        let claim = of(vec![member(1), member(2), unusable(3)]);
        eject(&claim.members[0], now);
        assert_eq!(tally(&claim, None, now), [(2, 3000)]);
        eject(&claim.members[1], now);
        assert_eq!(tally(&claim, None, now).len(), 2, "one of the ejected is better than none");
        assert_eq!(tally(&claim, Some(1), now), [(2, 3000)]);
        let later = now + super::super::FIRST_EJECTION;
        assert!(!claim.members[0].load.is_ejected(later));
    }

    fn weighted(id: u64, weight: &str) -> Member {
        let mut member = member(id);
        Arc::make_mut(&mut member.terms).settings.weight = weight.parse().unwrap();
        member
    }

    #[test]
    fn members_get_requests_by_their_weights() {
        let now = Instant::now();
        let claim = of(vec![weighted(1, "95"), weighted(2, "5")]);
        // However busy the usual one is: a canary gets what it was given.
        let _guards: Vec<_> = (0..50).map(|_| in_flight(&claim.members[0])).collect();
        let counts = tally(&claim, None, now);
        assert!((2790..2910).contains(&counts[0].1), "seed 7: {counts:?}");
        assert_eq!(
            tally(&of(vec![weighted(1, "0"), weighted(2, "100"), weighted(3, "0")]), None, now),
            [(2, 3000)]
        );
        assert_eq!(tally(&of(vec![weighted(1, "0"), weighted(2, "100")]), Some(2), now), [], "not even then");
        assert_eq!(tally(&of(vec![weighted(1, "0")]), None, now), []);
        assert_eq!(tally(&of(vec![weighted(1, "1")]), None, now), [(1, 3000)]);
        let claim = of(vec![weighted(1, "90"), weighted(2, "10")]);
        eject(&claim.members[0], now);
        assert_eq!(tally(&claim, None, now), [(2, 3000)]);
        eject(&claim.members[1], now);
        assert_eq!(tally(&claim, None, now).len(), 2, "one of the ejected is better than none");
    }

    #[test]
    fn an_answer_brings_a_member_back_at_once() {
        let now = Instant::now();
        let claim = of(vec![member(1), member(2)]);
        eject(&claim.members[0], now);
        claim.members[0].load.record(Outcome::Answered, now);
        assert_eq!(tally(&claim, None, now).len(), 2);
    }

    #[test]
    fn requests_and_upgraded_connections_are_counted_apart_and_exactly() {
        let member = member(1);
        let counts =
            || (member.load.in_flight.load(Ordering::Relaxed), member.load.upgraded.load(Ordering::Relaxed));
        let one = in_flight(&member);
        let two = in_flight(&member);
        assert_eq!(counts(), (2, 0));
        let upgraded = one.into_upgraded();
        assert_eq!(counts(), (1, 1));
        drop(two);
        drop(upgraded);
        assert_eq!(counts(), (0, 0));
    }
}
