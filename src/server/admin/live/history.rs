//! Rates and percentiles of the last quarter of an hour, in rings of a fixed size (pure).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::server::proxy::{RequestCounts, ServiceLabel};

use super::view::Traffic;

/// What the requests did, for each label and for all together.
#[derive(Debug, Default)]
pub(super) struct History {
    before: BTreeMap<ServiceLabel, RequestCounts>,
    series: BTreeMap<ServiceLabel, Series>,
    all: Series,
}

#[derive(Debug, Default, Clone)]
struct Series(VecDeque<Step>);

/// What happened within a step.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Step {
    rate: f32,
    errors: f32,
    percentiles: [f32; 3],
}

impl History {
    /// Takes the counters at the end of a step that lasted `time`. Labels without a request in the whole ring are forgotten.
    pub(super) fn step(&mut self, counts: BTreeMap<ServiceLabel, RequestCounts>, time: Duration) {
        let mut all = RequestCounts::default();
        for (label, now) in &counts {
            let news = self.before.get(label).map_or_else(|| now.clone(), |before| since(before, now));
            add(&mut all, &news);
            if news.count() > 0 || self.series.contains_key(label) {
                self.series.entry(label.clone()).or_default().push(step(&news, time));
            }
        }
        self.all.push(step(&all, time));
        self.series.retain(|_, series| series.0.iter().any(|step| step.rate > 0.0));
        self.before = counts;
    }

    /// All requests together.
    pub(super) fn all(&self) -> Traffic {
        self.all.traffic()
    }

    /// Those of one label.
    pub(super) fn of(&self, label: &ServiceLabel) -> Traffic {
        self.series.get(label).map(Series::traffic).unwrap_or_default()
    }
}

impl Series {
    fn push(&mut self, step: Step) {
        if self.0.len() == Traffic::STEPS {
            self.0.pop_front();
        }
        self.0.push_back(step);
    }

    fn traffic(&self) -> Traffic {
        let of = |value: fn(&Step) -> f32| self.0.iter().map(value).collect();
        Traffic {
            rate: of(|step| step.rate),
            errors: of(|step| step.errors),
            p50: of(|step| step.percentiles[0]),
            p95: of(|step| step.percentiles[1]),
            p99: of(|step| step.percentiles[2]),
        }
    }
}

fn since(before: &RequestCounts, now: &RequestCounts) -> RequestCounts {
    let mut news = now.clone();
    news.classes.iter_mut().zip(before.classes).for_each(|(now, before)| *now = now.saturating_sub(before));
    news.buckets.iter_mut().zip(before.buckets).for_each(|(now, before)| *now = now.saturating_sub(before));
    news
}

fn add(sum: &mut RequestCounts, more: &RequestCounts) {
    sum.classes.iter_mut().zip(more.classes).for_each(|(sum, more)| *sum += more);
    sum.buckets.iter_mut().zip(more.buckets).for_each(|(sum, more)| *sum += more);
}

fn step(counts: &RequestCounts, time: Duration) -> Step {
    let requests = counts.count();
    if requests == 0 || time.is_zero() {
        return Step::default();
    }
    Step {
        rate: rounded(requests as f64 / time.as_secs_f64()),
        errors: rounded(counts.classes[5] as f64 / requests as f64),
        percentiles: [0.5, 0.95, 0.99].map(|part| rounded(percentile(counts, part) * 1000.0)),
    }
}

/// Three digits are enough for a curve.
fn rounded(value: f64) -> f32 {
    if value >= 100.0 { value.round() as f32 } else { ((value * 1000.0).round() / 1000.0) as f32 }
}

/// The seconds within which this part of the requests was over: linear within its bucket, as Prometheus estimates it. Of
/// the last bucket only the lower end is known.
fn percentile(counts: &RequestCounts, part: f64) -> f64 {
    let wanted = counts.buckets.iter().sum::<u64>() as f64 * part;
    let (mut below, mut start) = (0.0, 0.0);
    for (count, end) in counts.buckets.iter().zip(RequestCounts::bounds()) {
        let count = *count as f64;
        if count > 0.0 && below + count >= wanted {
            return start + (end - start) * (wanted - below) / count;
        }
        (below, start) = (below + count, end);
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(15);

    fn counts(fast: u64, slow: u64, failed: u64) -> BTreeMap<ServiceLabel, RequestCounts> {
        let mut counts = RequestCounts::default();
        counts.classes[2] = fast + slow - failed;
        counts.classes[5] = failed;
        counts.buckets[1] = fast;
        counts.buckets[5] = slow;
        BTreeMap::from([(ServiceLabel::Service("web".parse().unwrap()), counts)])
    }

    #[test]
    fn a_step_says_what_happened_since_the_one_before() {
        let mut history = History::default();
        history.step(counts(150, 0, 0), STEP);
        history.step(counts(150 + 90, 60, 30), STEP);
        let traffic = history.of(&ServiceLabel::Service("web".parse().unwrap()));
        assert_eq!(traffic.rate, [10.0, 10.0]);
        assert_eq!(traffic.errors, [0.0, 0.2]);
        assert_eq!(traffic.p50[0], 7.5, "the middle of its bucket");
        assert!(traffic.p50[1] < 10.0 && traffic.p95[1] > 100.0, "{traffic:?}");
        assert_eq!(history.all(), traffic);
    }

    #[test]
    fn it_keeps_a_quarter_of_an_hour_and_forgets_who_is_silent_for_longer() {
        let mut history = History::default();
        for number in 1..=200 {
            history.step(counts(number, 0, 0), STEP);
        }
        let web = ServiceLabel::Service("web".parse().unwrap());
        assert_eq!(history.of(&web).rate.len(), Traffic::STEPS);
        for _ in 0..Traffic::STEPS {
            history.step(counts(200, 0, 0), STEP);
        }
        assert_eq!(history.of(&web), Traffic::default());
        assert_eq!(history.all().rate.len(), Traffic::STEPS);
        history.step(BTreeMap::new(), STEP);
        history.step(counts(30, 0, 0), STEP);
        assert_eq!(history.of(&web).rate, [2.0], "counters that began anew do not wrap around");
    }

    #[test]
    fn of_the_slowest_requests_only_the_least_is_known() {
        let mut slowest = RequestCounts::default();
        slowest.classes[2] = 1;
        slowest.buckets[11] = 1;
        assert_eq!(percentile(&slowest, 0.99), 10.0);
    }
}
