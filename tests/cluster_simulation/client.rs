//! A sidecar, as simple as it can be: it registers, stages what it wants, applies it, and comes back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use registry_sidecar::server::registry::ConnId;

pub(crate) struct Client {
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
    /// The application answers.
    pub(crate) is_up: bool,
    /// The domains that it wants.
    pub(crate) wants: BTreeSet<String>,
    pub(crate) id: Option<String>,
    /// The replica whose core has its connection, with that replica's process.
    pub(crate) conn: Option<(usize, u64, ConnId)>,
    /// What it is about to say.
    script: VecDeque<String>,
    /// What it has said and had no answer to.
    pub(crate) asked: Option<String>,
    /// The ids of its routes in force, and in force with the next apply.
    routes: BTreeMap<String, String>,
    staged: BTreeMap<String, String>,
    /// What the last answered apply put in force.
    pub(crate) applied: Option<BTreeSet<String>>,
    /// It does not connect before.
    pub(crate) away_until: Duration,
    /// It wants a drain, or none; and what it has.
    pub(crate) wants_drain: bool,
    pub(crate) drains: bool,
    pub(crate) wants_page: bool,
    pub(crate) has_page: bool,
    /// It has asked to leave maintenance, and waits for the verdict.
    awaits_verdict: bool,
    /// Until then nobody may expect it to be served.
    pub(crate) excused_until: Duration,
    /// It was told to leave, and comes back as a new session.
    leaves: bool,
}

/// What follows from a line that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// It goes on.
    None,
    /// An apply was answered with OK: these are its domains.
    Applied(BTreeSet<String>),
    /// It gives the connection up.
    HangUp,
}

impl Client {
    pub(crate) fn new(number: usize, service: usize) -> Self {
        Client {
            service: format!("s{service}"),
            instance: format!("s{service}-{number}"),
            address: Ipv4Addr::new(10, 2, 2, 10 + u8::try_from(number).unwrap()),
            port: 8080,
            is_up: true,
            wants: [format!("s{service}.example.com")].into(),
            id: None,
            conn: None,
            script: VecDeque::new(),
            asked: None,
            routes: BTreeMap::new(),
            staged: BTreeMap::new(),
            applied: None,
            away_until: Duration::ZERO,
            wants_drain: false,
            drains: false,
            wants_page: false,
            has_page: false,
            awaits_verdict: false,
            excused_until: Duration::ZERO,
            leaves: false,
        }
    }

    pub(crate) fn backend(&self) -> String {
        format!("http://{}:{}/", self.address, self.port)
    }

    /// Whether it is bound, has said everything and wants nothing more.
    pub(crate) fn is_settled(&self) -> bool {
        self.conn.is_some()
            && self.asked.is_none()
            && self.script.is_empty()
            && !self.leaves
            && self.applied.as_ref() == Some(&self.wants)
            && (self.drains, self.has_page) == (self.wants_drain, self.wants_page)
    }

    /// It has a connection.
    pub(crate) fn connected(&mut self) {
        self.script.clear();
        self.asked = None;
        match &self.id {
            Some(id) => self.script.push_back(format!("RECONNECT|{id}")),
            None => self.register(),
        }
    }

    fn register(&mut self) {
        self.forget();
        self.script.push_back(format!("REGISTER|{}|{}|0|null", self.service, self.instance));
    }

    /// It begins anew, with no session.
    pub(crate) fn forget(&mut self) {
        self.id = None;
        self.routes.clear();
        self.staged.clear();
        self.applied = None;
        (self.drains, self.has_page, self.awaits_verdict) = (false, false, false);
        self.script.clear();
    }

    /// The connection is gone. It does not know what came of what it asked for last.
    pub(crate) fn disconnected(&mut self) {
        self.conn = None;
        self.awaits_verdict = false;
        let told = |line: &String| line.starts_with("RECONNECT") || line.starts_with("CONFIG_ROLLBACK");
        if self.asked.take().is_some_and(|line| !told(&line)) {
            self.forget();
        }
        self.script.clear();
    }

    /// Whether it may have left.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaves || self.asked.as_ref().is_some_and(|line| line.starts_with("CLIENT_SHUTDOWN"))
    }

    /// It leaves, and comes back.
    pub(crate) fn leave(&mut self) {
        self.leaves = true;
    }

    /// The next line that it says, if it has one and nothing is unanswered.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        if self.asked.is_some() {
            return None;
        }
        if self.script.is_empty() {
            self.plan();
        }
        let line = self.script.pop_front()?;
        self.asked = Some(line.clone());
        Some(line)
    }

    fn plan(&mut self) {
        if self.id.is_none() {
            return;
        }
        if std::mem::take(&mut self.leaves) {
            self.script.push_back("CLIENT_SHUTDOWN|".to_owned());
            return;
        }
        if self.applied.as_ref() != Some(&self.wants) {
            self.staged.clone_from(&self.routes);
            for domain in self.wants.iter().filter(|domain| !self.routes.contains_key(*domain)) {
                self.script.push_back(format!("ROUTE_ADD||{domain}|/|{}|0", self.backend()));
            }
            for (domain, route) in self.routes.iter().filter(|(domain, _)| !self.wants.contains(*domain)) {
                self.staged.remove(domain);
                self.script.push_back(format!("ROUTE_REMOVE||{route}"));
            }
            self.script.push_back("CONFIG_APPLY|".to_owned());
        } else if self.drains != self.wants_drain {
            let line = if self.wants_drain { "DRAIN_START||0s" } else { "DRAIN_CANCEL|" };
            self.script.push_back(line.to_owned());
        } else if self.has_page != self.wants_page && !self.awaits_verdict {
            let line = if self.wants_page { "MAINT_ENTER||ALL|" } else { "MAINT_EXIT||ALL" };
            self.script.push_back(line.to_owned());
        }
    }

    /// A line came.
    pub(crate) fn hear(&mut self, line: &str) -> Reaction {
        if !is_reply(line) {
            if line.starts_with("MAINT_OK") && std::mem::take(&mut self.awaits_verdict) {
                self.has_page = false;
            }
            return Reaction::None;
        }
        let Some(asked) = self.asked.take() else { return Reaction::HangUp };
        let command = asked.split('|').next().unwrap_or_default();
        match command {
            "REGISTER" => match line.strip_prefix("ACK|") {
                Some(id) => self.id = Some(id.to_owned()),
                None => return Reaction::HangUp,
            },
            "RECONNECT" if line == "OK" => self.script.push_back("CONFIG_ROLLBACK|".to_owned()),
            "RECONNECT" => self.register(),
            "CLIENT_SHUTDOWN" => {
                self.forget();
                return Reaction::HangUp;
            }
            _ if line.starts_with("ERROR") => {
                self.forget();
                return Reaction::HangUp;
            }
            "ROUTE_ADD" => {
                let route = line.strip_prefix("ROUTE_OK|").unwrap_or_else(|| panic!("{line}"));
                let domain = asked.split('|').nth(2).unwrap();
                self.staged.insert(domain.to_owned(), route.to_owned());
            }
            "CONFIG_APPLY" => {
                self.routes.clone_from(&self.staged);
                let applied: BTreeSet<String> = self.routes.keys().cloned().collect();
                self.applied = Some(applied.clone());
                return Reaction::Applied(applied);
            }
            "DRAIN_START" => self.drains = true,
            "DRAIN_CANCEL" => self.drains = false,
            "MAINT_ENTER" => self.has_page = true,
            // Leaving is in force with its verdict.
            "MAINT_EXIT" => self.awaits_verdict = true,
            _ => {}
        }
        Reaction::None
    }
}

/// Verdicts and events come unasked.
fn is_reply(line: &str) -> bool {
    !["MAINT_OK", "EVENT", "SHUTDOWN", "ERROR|superseded"].iter().any(|push| line.starts_with(push))
        || line.starts_with("SHUTDOWN_OK")
}
