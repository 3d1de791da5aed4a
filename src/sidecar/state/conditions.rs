//! What decides whether people see the application: readiness, maintenance, drain and stop become one value.
//! Pure.

use registry_client::Visibility;

/// Work on the wrapped application, during which people get the maintenance page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// PRE_START, and the start after it.
    Preparation,
    /// An update in place.
    Update,
}

/// Everything that decides whether people see the application.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    /// The application passes its readiness checks.
    pub(crate) ready: bool,
    /// The application was ready at some time since the daemon started.
    pub(crate) was_ready: bool,
    /// BACKEND_HOST has addresses, and which one is the application's is not known.
    pub(crate) address_unknown: bool,
    /// Nothing but loopback is left in the network namespace: nobody can be reached, and nobody reaches us.
    pub(crate) stranded: bool,
    /// An operator put everything into maintenance.
    pub(crate) maintenance: bool,
    /// Work on the application that is going on.
    pub(crate) work: Option<Work>,
    /// An operator asked for a drain.
    pub(crate) drained: bool,
}

/// What a process without a network is told about.
const STRANDED: &str = "this network namespace has only the loopback interface: the container whose network it is has \
                        stopped, and this one must be started again after it";

impl Conditions {
    /// What people are to see. Maintenance comes before a lack of
    /// readiness, because the page tells people more. An application that was never ready is not registered.
    pub(crate) fn visibility(self) -> Visibility {
        match self {
            Conditions { maintenance: true, .. } | Conditions { work: Some(_), .. } => {
                Visibility::Maintenance
            }
            Conditions { ready: false, was_ready: false, .. } => Visibility::Absent,
            Conditions { ready: false, .. }
            | Conditions { address_unknown: true, .. }
            | Conditions { drained: true, .. } => Visibility::Draining,
            _ => Visibility::Live,
        }
    }

    /// Why people see that, in words.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Conditions { stranded: true, .. } => STRANDED,
            Conditions { maintenance: true, .. } => "maintenance was asked for",
            Conditions { work: Some(Work::Preparation), .. } => "the application is being prepared",
            Conditions { work: Some(Work::Update), .. } => "the application is being updated",
            Conditions { ready: false, was_ready: false, .. } => "the application has not been ready yet",
            Conditions { ready: false, .. } => "the application is not ready",
            Conditions { address_unknown: true, .. } => "which address is the application's is not known",
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
        for bits in 0..128u8 {
            let bit = |n: u8| bits & (1 << n) != 0;
            let conditions = Conditions {
                ready: bit(0),
                was_ready: bit(1),
                maintenance: bit(2),
                drained: bit(3),
                address_unknown: bit(5),
                stranded: bit(6),
                work: bit(4).then_some(Work::Update),
            };
            let visibility = conditions.visibility();
            if visibility == Visibility::Live {
                assert!(conditions.ready && !conditions.maintenance && !conditions.drained, "{conditions:?}");
                assert!(conditions.work.is_none() && !conditions.address_unknown, "{conditions:?}");
            }
            seen.push(visibility);
        }
        for visibility in
            [Visibility::Absent, Visibility::Maintenance, Visibility::Live, Visibility::Draining]
        {
            assert!(seen.contains(&visibility), "{visibility:?}");
        }
    }
}
