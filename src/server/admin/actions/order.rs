//! What a request asks for, and the command that this is (pure).

use std::net::IpAddr;

use registry_client::protocol::{BackendUrl, GoDuration, Reply, Request, Target};
use serde::Deserialize;

use crate::server::registry::SessionOverview;

/// How many characters of a name and of a reason are kept.
const MAX_TEXT: usize = 200;

/// What is to be done, to whom, and who wants it.
#[derive(Debug, PartialEq)]
pub(super) struct Order {
    action: Action,
    whom: Whom,
    by: String,
    reason: String,
}

#[derive(Debug, PartialEq)]
enum Action {
    Drain(GoDuration),
    CancelDrain,
    EnterMaintenance(Option<BackendUrl>),
    LeaveMaintenance,
}

/// Whom an order is for.
#[derive(Debug, PartialEq)]
pub(super) enum Whom {
    /// Every session of a service.
    Service(String),
    /// One session.
    Session(u64),
}

/// An order as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    action: String,
    service: Option<String>,
    session: Option<u64>,
    duration: Option<String>,
    page: Option<String>,
    #[serde(default)]
    by: String,
    #[serde(default)]
    reason: String,
}

impl Order {
    /// Reads an order. The error is for people.
    pub(super) fn parse(body: &[u8]) -> Result<Order, String> {
        let written: Written =
            serde_json::from_slice(body).map_err(|error| format!("this is no order: {error}"))?;
        let whom = match (written.service, written.session) {
            (Some(service), None) => Whom::Service(service),
            (None, Some(session)) => Whom::Session(session),
            _ => return Err("an order is for a service or for a session".to_owned()),
        };
        let duration = |text: Option<String>| {
            let text = text.unwrap_or_else(|| "30s".to_owned());
            text.parse::<GoDuration>().map_err(|error| format!("duration: {error}"))
        };
        let page = |text: Option<String>| {
            text.map(|text| text.parse::<BackendUrl>().map_err(|error| format!("page: {error}"))).transpose()
        };
        let action = match (written.action.as_str(), written.duration, written.page) {
            ("drain", time, None) => Action::Drain(duration(time)?),
            ("cancel-drain", None, None) => Action::CancelDrain,
            ("enter-maintenance", None, url) => Action::EnterMaintenance(page(url)?),
            ("leave-maintenance", None, None) => Action::LeaveMaintenance,
            ("drain" | "cancel-drain" | "enter-maintenance" | "leave-maintenance", _, _) => {
                return Err(
                    "a drain has a duration, and entering maintenance a page; nothing else has".to_owned()
                );
            }
            (other, _, _) => {
                let known = "drain, cancel-drain, enter-maintenance, leave-maintenance";
                return Err(format!("{other:?} is none of {known}"));
            }
        };
        Ok(Order { action, whom, by: harmless(&written.by), reason: harmless(&written.reason) })
    }

    pub(super) fn whom(&self) -> &Whom {
        &self.whom
    }

    /// The registry's command.
    pub(super) fn request(&self) -> Request {
        match &self.action {
            Action::Drain(time) => Request::DrainStart(*time),
            Action::CancelDrain => Request::DrainCancel,
            Action::EnterMaintenance(page) => Request::MaintEnter { target: Target::All, page: page.clone() },
            Action::LeaveMaintenance => Request::MaintExit(Target::All),
        }
    }

    /// One line for the log.
    pub(super) fn describe(&self, peer: IpAddr) -> String {
        let what = match &self.action {
            Action::Drain(time) => format!("drain for {time}"),
            Action::CancelDrain => "cancel the drain".to_owned(),
            Action::EnterMaintenance(None) => "enter maintenance".to_owned(),
            Action::EnterMaintenance(Some(page)) => format!("enter maintenance with {page}"),
            Action::LeaveMaintenance => "leave maintenance".to_owned(),
        };
        let whom = match &self.whom {
            Whom::Service(_) => "all instances".to_owned(),
            Whom::Session(session) => format!("session {session}"),
        };
        let by = if self.by.is_empty() { String::new() } else { format!(" {}", self.by) };
        let reason = if self.reason.is_empty() { String::new() } else { format!(" ({})", self.reason) };
        format!("operator{by} from {peer}: {what}, {whom}{reason}")
    }

    /// What a reply means, for people.
    pub(super) fn outcome(&self, reply: &Reply) -> String {
        match (&self.action, reply) {
            (_, Reply::DrainStarted(end)) => format!("draining until {end}"),
            (Action::CancelDrain, _) => "the drain is cancelled".to_owned(),
            (Action::EnterMaintenance(_), _) => "in maintenance".to_owned(),
            (Action::LeaveMaintenance, _) => "leaves maintenance as soon as it answers".to_owned(),
            (Action::Drain(_), _) => "done".to_owned(),
        }
    }
}

impl Whom {
    /// Whether a session is meant.
    pub(super) fn is(&self, session: &SessionOverview) -> bool {
        match self {
            Whom::Service(name) => session.service.as_str() == name,
            Whom::Session(no) => session.no.0 == *no,
        }
    }

    /// What to say where nobody is meant.
    pub(super) fn missing(&self) -> String {
        match self {
            Whom::Service(name) => format!("no session of a service {name:?} is known"),
            Whom::Session(no) => format!("no session {no} is known"),
        }
    }
}

/// A text for the log: one line, not too long.
fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(text: &str) -> Result<Order, String> {
        Order::parse(text.as_bytes())
    }

    #[test]
    fn an_order_is_a_command_of_the_registry() {
        let drain =
            order(r#"{"action":"drain","service":"web","duration":"5s","by":"ann\n","reason":"deploy"}"#);
        let drain = drain.unwrap();
        assert_eq!(drain.request(), Request::DrainStart("5s".parse().unwrap()));
        let line = drain.describe(IpAddr::from([10, 0, 0, 7]));
        assert_eq!(line, "operator ann from 10.0.0.7: drain for 5s, all instances (deploy)");
        let cancel = order(r#"{"action":"cancel-drain","session":7}"#).unwrap();
        assert_eq!(cancel.request(), Request::DrainCancel);
        let enter = r#"{"action":"enter-maintenance","session":7,"page":"http://10.0.0.1:80"}"#;
        assert!(matches!(order(enter).unwrap().request(), Request::MaintEnter { page: Some(_), .. }));
        let leave = order(r#"{"action":"leave-maintenance","session":7}"#).unwrap();
        assert_eq!(leave.request(), Request::MaintExit(Target::All));
    }

    #[test]
    fn what_is_not_understood_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "no order"),
            ("{}", "no order"),
            (r#"{"action":"drain"}"#, "for a service or for a session"),
            (r#"{"action":"drain","service":"a","session":1}"#, "for a service or for a session"),
            (r#"{"action":"reboot","service":"a"}"#, "is none of"),
            (r#"{"action":"drain","service":"a","duration":"soon"}"#, "duration"),
            (r#"{"action":"enter-maintenance","service":"a","page":"nowhere"}"#, "page"),
            (r#"{"action":"cancel-drain","service":"a","duration":"5s"}"#, "nothing else has"),
            (r#"{"action":"drain","service":"a","token":"x"}"#, "no order"),
        ] {
            let error = order(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
