//! The last things that happened, in a ring of a fixed size (pure).

use std::collections::VecDeque;
use std::time::SystemTime;

use crate::server::registry::{LogEvent, MemberLabel};

/// How many are kept.
const MOST: usize = 100;
/// How long a text may be, in characters.
const LONGEST: usize = 300;

/// The last things that happened, newest first.
#[derive(Debug, Default)]
pub(super) struct Journal(VecDeque<(SystemTime, Entry)>);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server::admin) struct Entry {
    /// How bad it is.
    pub(in crate::server::admin) level: Level,
    /// The service that it concerns.
    pub(in crate::server::admin) service: Option<String>,
    /// What.
    pub(in crate::server::admin) text: String,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server::admin) enum Level {
    Info,
    Warning,
}

impl Journal {
    pub(super) fn push(&mut self, at: SystemTime, mut entry: Entry) {
        if let Some((end, _)) = entry.text.char_indices().nth(LONGEST) {
            entry.text.truncate(end);
            entry.text.push('…');
        }
        self.0.truncate(MOST - 1);
        self.0.push_front((at, entry));
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &(SystemTime, Entry)> {
        self.0.iter()
    }
}

/// What people are told of an event of the registry. `None`: nothing.
pub(super) fn of_registry(event: &LogEvent) -> Option<Entry> {
    use LogEvent as E;
    let (level, service, text) = match event {
        E::WrongToken { peer, .. } => warning(format!("{peer} refused: without the REGISTRY_TOKEN")),
        E::WrongServiceToken { service, peer, .. } => {
            of(service, Level::Warning, format!("{peer} refused: without the service's token"))
        }
        E::TokenNotAdded { service, peer, .. } => {
            of(service, Level::Warning, format!("{peer} refused: instances without a token are registered"))
        }
        E::Registered(who, peer) => {
            of(&who.service, Level::Info, format!("{} registered from {peer}", who.instance))
        }
        E::Resumed(who, _) => of(&who.service, Level::Info, format!("{} is back", who.instance)),
        E::Lost(who, grace) => {
            let text = format!("{} lost its connection; its routes stay for {grace:?}", who.instance);
            of(&who.service, Level::Warning, text)
        }
        E::Replaced(who, _) => {
            of(&who.service, Level::Info, format!("{} is replaced by a newer session", who.instance))
        }
        E::ShutDown(who) => of(&who.service, Level::Info, format!("{} left", who.instance)),
        E::Expired(who) => {
            let text = format!("{} did not return in time: its routes are gone", who.instance);
            of(&who.service, Level::Warning, text)
        }
        E::Applied { who, revision, changed, routes } => {
            let text =
                format!("{} applied revision {revision}: {changed} of {routes} routes changed", who.instance);
            of(&who.service, Level::Info, text)
        }
        E::Restored { sessions, routes, .. } => {
            (Level::Info, None, format!("restored {sessions} sessions with {routes} routes"))
        }
        _ => return of_claims(event),
    };
    Some(Entry { level, service, text })
}

/// The same for events of claims, members and the store.
fn of_claims(event: &LogEvent) -> Option<Entry> {
    use LogEvent as E;
    let (level, service, text) = match event {
        E::Hidden { who, domain, path, by, .. } => of(
            &who.service,
            Level::Warning,
            format!("no request reaches {domain}{path}: {by} goes before it"),
        ),
        E::Conflict { who, domain, path, owner, .. } => {
            let text = format!("{} refused: {domain}{path} belongs to {owner}", who.instance);
            of(&who.service, Level::Warning, text)
        }
        E::NotPermitted { who, domain } => {
            let text = format!("{} refused: REGISTRY_POLICY does not permit {domain}", who.instance);
            of(&who.service, Level::Warning, text)
        }
        E::OutsidePolicy { claims, .. } => {
            warning(format!("{claims} claims in force are not permitted by REGISTRY_POLICY"))
        }
        E::TakenOver { by, domain, path, .. } => {
            of(&by.service, Level::Warning, format!("takes {domain}{path} over from a lost service"))
        }
        E::MemberOut { which, error, .. } => {
            let error = error.as_deref().map(|error| format!(": check {error}")).unwrap_or_default();
            member(which, Level::Warning, &format!("out{error}"))
        }
        E::MemberIn(which) => member(which, Level::Info, "in"),
        E::Ejected { which, is_out: true } => member(which, Level::Warning, "out: requests to it failed"),
        E::Ejected { which, is_out: false } => member(which, Level::Info, "answers requests again"),
        E::Leads(_) => (Level::Info, None, "this replica leads now".to_owned()),
        E::StageExpired(who) => {
            of(&who.service, Level::Warning, format!("{}: nobody applied its changes", who.instance))
        }
        E::StoreRefused(session) => {
            warning(format!("the store did not take a change of session {}", session.0))
        }
        _ => return None,
    };
    Some(Entry { level, service, text })
}

type Parts = (Level, Option<String>, String);

fn warning(text: String) -> Parts {
    (Level::Warning, None, text)
}

fn of(service: &impl ToString, level: Level, text: String) -> Parts {
    (level, Some(service.to_string()), text)
}

fn member(which: &MemberLabel, level: Level, what: &str) -> Parts {
    let MemberLabel { instance, endpoint, domain, path, .. } = which;
    (level, None, format!("{domain}{path}: {instance} ({}) {what}", endpoint.backend))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_newest_and_cuts_what_is_long() {
        let mut journal = Journal::default();
        for number in 0..MOST + 5 {
            let text = format!("{number}{}", "ä".repeat(2 * LONGEST));
            let entry = Entry { level: Level::Info, service: None, text };
            journal.push(SystemTime::UNIX_EPOCH, entry);
        }
        let texts: Vec<_> = journal.entries().map(|(_, entry)| &entry.text).collect();
        assert_eq!(texts.len(), MOST);
        assert!(texts[0].starts_with("104ä") && texts[MOST - 1].starts_with("5ä"));
        assert!(texts.iter().all(|text| text.chars().count() == LONGEST + 1));
    }
}
