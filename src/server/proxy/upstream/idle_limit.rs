//! How long a member's connections may be idle: the backend closes them at some age, and a request that is sent at that
//! moment is lost. Pure.

use std::time::{Duration, Instant};

use http::HeaderValue;

/// How long any connection may be idle. Node closes idle connections after 5 s (SEMANTICS section 9).
pub(super) const MAX_IDLE: Duration = Duration::from_secs(4);
/// Connections are used again at once under load, so a limit below this would only cost.
const MIN_IDLE: Duration = Duration::from_millis(100);
/// How many closes at about one age tell the backend's limit.
const CLOSES: usize = 3;
/// How far these ages may lie apart. Idle connections are looked at once a second.
const SPREAD: Duration = Duration::from_millis(1_100);
/// Closes within so short a time are one: the backend stops, or somebody cuts all of its connections.
const AT_ONCE: Duration = Duration::from_millis(100);
/// How long what was learnt holds.
const MEMORY: Duration = Duration::from_secs(600);

/// What is known of one member.
#[derive(Debug, Default)]
pub(super) struct IdleLimit {
    /// What its responses say, and when one last did: `Keep-Alive: timeout=5`.
    said: Option<(Instant, Duration)>,
    /// The last closes of idle connections: when, and how long the connection was idle at least.
    closes: Vec<(Instant, Duration)>,
    /// What three closes have told, and when.
    learnt: Option<(Instant, Duration)>,
}

impl IdleLimit {
    /// How long a connection may have been idle when a request is sent on it. A request that cannot be repeated takes only
    /// one that is far from the limit.
    pub(super) fn of(&self, is_repeatable: bool, now: Instant) -> Duration {
        let learnt = self.learnt.filter(|learnt| !is_old(learnt, now));
        let known = self.said.into_iter().chain(learnt).map(|(_, age)| age).min();
        let limit = known.map_or(MAX_IDLE, |known| known.clamp(MIN_IDLE, MAX_IDLE));
        if is_repeatable { limit } else { (limit / 2).max(MIN_IDLE) }
    }

    /// A response had this Keep-Alive field (RFC 2068 section 19.7.1). What has no time-out says nothing.
    pub(super) fn says(&mut self, field: &HeaderValue, now: Instant) {
        self.said = timeout(field).map(|age| (now, age)).or(self.said);
    }

    /// The backend has closed a connection that was idle for `age` at least.
    pub(super) fn closed(&mut self, age: Duration, now: Instant) {
        if self.closes.last().is_some_and(|(at, _)| now.saturating_duration_since(*at) < AT_ONCE) {
            return;
        }
        if self.closes.len() == CLOSES {
            self.closes.remove(0);
        }
        self.closes.push((now, age));
        let ages = || self.closes.iter().map(|(_, age)| *age);
        let (least, most) = (ages().min().unwrap_or_default(), ages().max().unwrap_or_default());
        if self.closes.len() == CLOSES && most - least <= SPREAD {
            self.learnt = Some((now, least));
        }
    }

    /// Whether nothing is known that is worth keeping. A member that is gone says and closes nothing more.
    pub(super) fn is_unknown(&self, now: Instant) -> bool {
        self.said.iter().chain(&self.closes).all(|known| is_old(known, now))
    }
}

/// Whether what was noticed at this time holds no longer.
fn is_old((at, _): &(Instant, Duration), now: Instant) -> bool {
    now.saturating_duration_since(*at) >= MEMORY
}

fn timeout(field: &HeaderValue) -> Option<Duration> {
    let parameters = field.to_str().ok()?.split(',').filter_map(|parameter| parameter.split_once('='));
    let is_timeout = |(name, _): &(&str, &str)| name.trim().eq_ignore_ascii_case("timeout");
    let seconds = parameters.into_iter().find(is_timeout)?.1.trim().trim_matches('"').parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn saying(text: &'static str) -> Duration {
        let mut limit = IdleLimit::default();
        limit.says(&HeaderValue::from_static(text), Instant::now());
        limit.of(true, Instant::now())
    }

    #[test]
    fn a_backend_only_shortens_the_limit() {
        for (text, seconds) in
            [("timeout=2", 2), ("max=100, Timeout = \"3\"", 3), ("timeout=4", 4), ("timeout=75, max=5", 4)]
        {
            assert_eq!(saying(text), SECOND * seconds, "{text}");
        }
        assert_eq!(saying("timeout=0"), MIN_IDLE);
        for nothing in ["", "max=5", "timeout", "timeout=soon", "timeout=-1", "xtimeout=1"] {
            assert_eq!(saying(nothing), MAX_IDLE, "{nothing:?}");
        }
    }

    #[test]
    fn what_a_backend_said_is_kept_for_ten_minutes_after_it_last_said_so() {
        let (mut limit, start) = (IdleLimit::default(), Instant::now());
        assert!(limit.is_unknown(start));
        for minutes in [0, 9, 18] {
            let now = start + SECOND * 60 * minutes;
            limit.says(&HeaderValue::from_static("timeout=2"), now);
            assert!(!limit.is_unknown(now + MEMORY - SECOND) && limit.is_unknown(now + MEMORY));
        }
    }

    #[test]
    fn a_request_that_cannot_be_repeated_has_half_the_limit() {
        let (limit, now) = (IdleLimit::default(), Instant::now());
        assert_eq!((limit.of(true, now), limit.of(false, now)), (SECOND * 4, SECOND * 2));
    }

    #[test]
    fn three_closes_at_about_one_age_tell_the_limit_for_ten_minutes() {
        let (mut limit, start) = (IdleLimit::default(), Instant::now());
        for (number, millis) in [1900, 1500, 2400].into_iter().enumerate() {
            assert_eq!(limit.of(true, start), MAX_IDLE, "after {number} closes");
            limit.closed(Duration::from_millis(millis), start + SECOND * number as u32);
        }
        let learnt = start + SECOND * 2;
        assert_eq!(limit.of(true, learnt), Duration::from_millis(1500));
        assert_eq!(limit.of(true, learnt + MEMORY - SECOND), Duration::from_millis(1500));
        assert_eq!(limit.of(true, learnt + MEMORY), MAX_IDLE);
        assert!(!limit.is_unknown(learnt) && limit.is_unknown(learnt + MEMORY));
    }

    #[test]
    fn closes_at_one_moment_or_at_any_age_tell_nothing() {
        let (mut limit, now) = (IdleLimit::default(), Instant::now());
        for _ in 0..20 {
            limit.closed(SECOND, now);
        }
        assert_eq!(limit.of(true, now), MAX_IDLE, "the backend has stopped");
        let mut limit = IdleLimit::default();
        for seconds in [0, 3, 1, 3, 0, 2, 0] {
            limit.closed(SECOND * seconds, now + SECOND * limit.closes.len() as u32);
            assert_eq!(limit.of(true, now), MAX_IDLE);
        }
    }
}
