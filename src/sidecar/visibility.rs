//! Where the machines meet: what readiness, the operator and the stop say becomes the one value that the
//! client knows. Pure.

use crate::client::Wanted;

/// What goes on instead of the wrapped application, behind the maintenance page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// PRE_START, and the start after it.
    Preparation,
    /// An update in place.
    Update,
}

/// Everything that decides whether people see the application.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    /// The application answers.
    pub ready: bool,
    /// It has answered before.
    pub was_ready: bool,
    /// Somebody asked for maintenance of everything.
    pub maintenance: bool,
    /// Work goes on that people are told of instead.
    pub work: Option<Work>,
    /// Somebody asked for a drain.
    pub drained: bool,
    /// We are leaving.
    pub stopping: bool,
}

impl Conditions {
    /// What people are to see. Who leaves is not shown, whatever else is the case; maintenance goes before a
    /// lost application, because it says more; and what has never been ready is not registered at all, unless
    /// there is a page to show until then.
    pub(super) fn wanted(self) -> Wanted {
        match self {
            Conditions { stopping: true, .. } => Wanted::Draining,
            Conditions { maintenance: true, .. } | Conditions { work: Some(_), .. } => Wanted::Maintenance,
            Conditions { ready: false, was_ready: false, .. } => Wanted::Absent,
            Conditions { ready: false, .. } | Conditions { drained: true, .. } => Wanted::Draining,
            _ => Wanted::Live,
        }
    }

    /// Why that is wanted, for a person.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Conditions { stopping: true, .. } => "this instance is leaving",
            Conditions { maintenance: true, .. } => "maintenance was asked for",
            Conditions { work: Some(Work::Preparation), .. } => "the application is being prepared",
            Conditions { work: Some(Work::Update), .. } => "the application is being updated",
            Conditions { ready: false, was_ready: false, .. } => "the application has not been ready yet",
            Conditions { ready: false, .. } => "the application is not ready",
            Conditions { drained: true, .. } => "a drain was asked for",
            _ => "the application is ready",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_has_one_answer() {
        let mut seen = Vec::new();
        for bits in 0..64u8 {
            let bit = |n: u8| bits & (1 << n) != 0;
            let conditions = Conditions {
                ready: bit(0),
                was_ready: bit(1),
                maintenance: bit(2),
                drained: bit(3),
                stopping: bit(4),
                work: bit(5).then_some(Work::Update),
            };
            let wanted = conditions.wanted();
            if wanted == Wanted::Live {
                assert!(conditions.ready && !conditions.maintenance && !conditions.drained, "{conditions:?}");
                assert_eq!(conditions.work, None);
            }
            if conditions.stopping {
                assert_eq!(wanted, Wanted::Draining, "{conditions:?}");
            }
            seen.push(wanted);
        }
        for wanted in [Wanted::Absent, Wanted::Maintenance, Wanted::Live, Wanted::Draining] {
            assert!(seen.contains(&wanted), "{wanted:?}");
        }
    }
}
