//! Bounds how often one statement of the code writes to the log, and what other crates may write.
//!
//! Whatever a peer does, it makes the log grow at a bounded rate: each statement may write [`BURST`] lines at once and
//! then [`PER_SECOND`] a second. What is left out is counted, and told behind the next line that the statement
//! writes. Debug and trace lines are not bounded: whoever asks for them wants all of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

/// Lines that one statement may write at once.
pub const BURST: u32 = 1_000;

/// Lines a second that one statement may write for as long as it wants.
pub const PER_SECOND: u32 = 10;

/// The beginning of the target of all crates of this project.
const OURS: &str = "registry_";

/// A subscriber that passes on to `S` what the levels and the bound allow.
#[derive(Debug)]
pub struct Limited<S> {
    inner: S,
    /// For the crates of this project.
    ours: LevelFilter,
    /// For all other crates.
    libraries: LevelFilter,
    statements: Mutex<HashMap<Identifier, Allowance>>,
}

/// What one statement may still write.
#[derive(Debug)]
struct Allowance {
    lines: u32,
    /// When `lines` was last refilled.
    since: Instant,
    left_out: u64,
}

impl<S> Limited<S> {
    /// Passes on to `inner` what `ours` allows for this project's crates, and `libraries` for others.
    pub fn new(inner: S, ours: LevelFilter, libraries: LevelFilter) -> Self {
        Limited { inner, ours, libraries: libraries.min(ours), statements: Mutex::new(HashMap::new()) }
    }

    fn allows(&self, metadata: &Metadata<'_>) -> bool {
        let most = if metadata.target().starts_with(OURS) { self.ours } else { self.libraries };
        *metadata.level() <= most
    }
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Allowance { lines: BURST, since: now, left_out: 0 }
    }

    /// Takes one line, if there is one: `Some` with the number of lines left out before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let refill = now.saturating_duration_since(self.since).as_secs_f64() * f64::from(PER_SECOND);
        if refill >= 1.0 {
            self.lines = self.lines.saturating_add(refill as u32).min(BURST);
            self.since = now;
        }
        match self.lines.checked_sub(1) {
            Some(left) => {
                self.lines = left;
                Some(std::mem::take(&mut self.left_out))
            }
            None => {
                self.left_out += 1;
                None
            }
        }
    }
}

impl<S: Subscriber> Subscriber for Limited<S> {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.allows(metadata) { self.inner.register_callsite(metadata) } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.allows(metadata) && self.inner.enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.ours)
    }

    fn event(&self, event: &Event<'_>) {
        if *event.metadata().level() > Level::INFO {
            return self.inner.event(event);
        }
        let taken = {
            let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            statements.entry(event.metadata().callsite()).or_insert_with(|| Allowance::new(now)).take(now)
        };
        let Some(left_out) = taken else { return };
        self.inner.event(event);
        if left_out > 0 {
            tracing::warn!("left out {left_out} more lines like the one above");
        }
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.inner.new_span(span)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.inner.record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.inner.record_follows_from(span, follows);
    }

    fn enter(&self, span: &Id) {
        self.inner.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.inner.exit(span);
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.inner.clone_span(id)
    }

    fn try_close(&self, id: Id) -> bool {
        self.inner.try_close(id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_a_few_lines_a_second() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let passed = (0..5_000).filter(|_| allowance.take(start).is_some()).count();
        assert_eq!(passed, BURST as usize);
        let later = start + Duration::from_secs(1);
        assert_eq!(allowance.take(later), Some(4_000), "the first line behind the gap tells how long it was");
        let passed = (0..5_000).filter(|_| allowance.take(later).is_some()).count();
        assert_eq!(passed, PER_SECOND as usize - 1);
    }

    #[test]
    fn who_writes_seldom_is_never_bounded() {
        let mut now = Instant::now();
        let mut allowance = Allowance::new(now);
        for _ in 0..10_000 {
            now += Duration::from_millis(100);
            assert_eq!(allowance.take(now), Some(0));
        }
    }
}
