//! What an operator can do about a failure, in terms of the variables. Pure.

use std::fmt;

use registry_client::protocol::Refusal;
use registry_client::{Cause, Event};

/// Displays an event as a line of the log: what happened, and what helps.
pub(super) struct WithHint<'a>(pub(super) &'a Event);

impl fmt::Display for WithHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match hint(self.0) {
            Some(hint) => write!(f, "{}; {hint}", self.0),
            None => self.0.fmt(f),
        }
    }
}

fn hint(event: &Event) -> Option<String> {
    let fixed = match event {
        Event::RouteRefused { owner: Some(owner), .. } => {
            return Some(format!("stop service {owner}, or give this route another domain or path"));
        }
        Event::RouteRefused { refusal, .. } | Event::ApplyRefused { refusal, .. } => {
            hint_for_refusal(refusal)?
        }
        Event::Error { cause: Cause::Refused { refusal, .. }, .. } => hint_for_refusal(refusal)?,
        Event::Replaced { .. } => "give every instance an INSTANCE_NAME of its own",
        Event::MaintenanceFailed { entering: true, .. } => {
            "people get the proxy's own page; can the proxy reach MAINTENANCE_PAGE_URL?"
        }
        _ => return None,
    };
    Some(fixed.to_owned())
}

fn hint_for_refusal(refusal: &Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::NotAllowed(_) => Some(
            "the registry's operator decides that: BACKEND_ALLOW for addresses, REGISTRY_POLICY for domains",
        ),
        Refusal::StoreUnavailable => Some("the registry cannot write its STATE_FILE: its log says why"),
        Refusal::Other(text) if text == "wrong registry token" => {
            Some("set REGISTRY_TOKEN (or REGISTRY_TOKEN_FILE) to that of the registry")
        }
        Refusal::Other(text) if text == "wrong service token" => {
            Some("set SIDECAR_SERVICE_TOKEN to that of the service's other instances")
        }
        Refusal::Other(text) if text == "service token cannot be added" => Some(
            "instances without SIDECAR_SERVICE_TOKEN are registered: stop them first, or put the secret into the registry's policy",
        ),
        Refusal::Other(text) if text.starts_with("too many wrong tokens") => Some(
            "a wrong token came from this address: after it the registry lets the address wait, up to a minute",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refused(refusal: Refusal, owner: Option<&str>) -> String {
        let (key, owner) = ("DOMAINS".into(), owner.map(str::to_owned));
        WithHint(&Event::RouteRefused { key, refusal, owner, delay: Duration::from_secs(1) }).to_string()
    }

    #[test]
    fn a_conflict_a_policy_and_a_token_are_told_with_what_helps() {
        let conflict = Refusal::Other("route r1: a.de/ belongs to service blog".to_owned());
        let line = refused(conflict, Some("blog"));
        assert!(
            line.contains("belongs to service blog; stop service blog, or give this route another"),
            "{line}"
        );
        let line = refused(Refusal::NotAllowed("10.9.9.9".to_owned()), None);
        assert!(line.contains("not allowed: 10.9.9.9; ") && line.contains("BACKEND_ALLOW"), "{line}");
        let line = refused(Refusal::Other("wrong registry token".to_owned()), None);
        assert!(line.contains("set REGISTRY_TOKEN"), "{line}");
        assert!(!refused(Refusal::NoDomains, None).contains(';'));
    }
}
