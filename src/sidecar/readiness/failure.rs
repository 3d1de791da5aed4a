//! Why a try has failed, and what helps, as far as what was seen tells. Pure.

use std::fmt;

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The name has no address.
    Unresolved,
    /// The name server has not answered yet.
    SlowNameServer,
    /// Nobody listens there.
    Refused,
    /// Nobody answers there.
    Silent,
    /// Something answers there, and its answer says what is wrong; or it was no matter of connections.
    Other,
}

/// Why a try has failed. `Display` is the text for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    cause: Cause,
    text: String,
}

impl Failure {
    pub(super) fn new(cause: Cause, text: impl Into<String>) -> Self {
        Failure { cause, text: text.into() }
    }

    /// The same, of this check.
    pub(super) fn of(self, check: impl fmt::Display) -> Self {
        Failure { text: format!("{check}: {}", self.text), ..self }
    }

    /// What an operator may look at.
    pub(super) fn hint(&self) -> &'static str {
        match self.cause {
            Cause::Unresolved => {
                "Is the name right, and is its container running, on a network that we share?"
            }
            Cause::SlowNameServer => {
                "Is the name server up, and does it answer for IPv6 addresses (AAAA) as well?"
            }
            Cause::Refused => {
                "Does it still start? Otherwise: is PORT its port, and does it listen on that address?"
            }
            Cause::Silent => {
                "Is it on a network that we share, and does nothing between us drop connections?"
            }
            Cause::Other => "The check reached it, so its answer says what it lacks.",
        }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Failure::new(Cause::Other, text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_about_what_was_seen() {
        let hint = |cause| Failure::new(cause, "x").of("tcp://app:80").hint();
        assert!(hint(Cause::Refused).contains("PORT") && hint(Cause::SlowNameServer).contains("AAAA"));
        for cause in [Cause::Unresolved, Cause::SlowNameServer, Cause::Silent, Cause::Other] {
            assert!(!hint(cause).contains("PORT"), "{cause:?}");
        }
        assert_eq!(
            Failure::from("status 500".to_owned()).of("http://app:80/").to_string(),
            "http://app:80/: status 500"
        );
    }
}
