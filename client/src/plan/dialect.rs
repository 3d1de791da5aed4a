//! What each kind of server understands.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{Dialect, Unsupported, reference};
use crate::intent::{Headers, Route, RouteKey, Routes};
use crate::protocol::report::SessionInfo;
use crate::protocol::{OptionKey, RouteOption};

/// How many capabilities of a server are looked at.
const MAX_CAPABILITIES: usize = 256;

impl Dialect {
    /// Ours, of this version: it acts on every option.
    pub fn ours() -> Self {
        let capabilities = OptionKey::ALL.into_iter().filter_map(OptionKey::capability);
        Dialect::Ours { capabilities: capabilities.map(str::to_owned).collect(), lacks: BTreeSet::new() }
    }

    /// Whom SESSION_INFO shows.
    pub(crate) fn of(info: &SessionInfo) -> Self {
        match info.server {
            Some(_) => {
                let capabilities = info.capabilities.iter().take(MAX_CAPABILITIES).cloned().collect();
                Dialect::Ours { capabilities, lacks: BTreeSet::new() }
            }
            None => Dialect::Reference,
        }
    }

    /// Whether it is this project's server and announces `capability`.
    pub(crate) fn has(&self, capability: &str) -> bool {
        matches!(self, Dialect::Ours { capabilities, .. } if capabilities.contains(capability))
    }

    /// Whether it has answered that it does not know this command.
    pub(crate) fn lacks(&self, command: &str) -> bool {
        matches!(self, Dialect::Ours { lacks, .. } if lacks.contains(command))
    }

    /// It does not know this command; whether that is news.
    pub(crate) fn learn_lack(&mut self, command: &'static str) -> bool {
        match self {
            Dialect::Ours { lacks, .. } => lacks.insert(command),
            Dialect::Reference => false,
        }
    }

    /// The part of a route that can be said to it.
    pub(crate) fn understood<'a>(&self, route: &'a Route) -> Cow<'a, Route> {
        match self {
            Dialect::Reference => reference::understood(route),
            Dialect::Ours { lacks, .. }
                if lacks.is_empty() && route.options.iter().all(|o| self.takes(o)) =>
            {
                Cow::Borrowed(route)
            }
            Dialect::Ours { lacks, .. } => {
                let mut route = route.clone();
                route.options = route.options.iter().filter(|option| self.takes(option)).cloned().collect();
                if lacks.contains("HEADERS_SET") {
                    route.headers = Headers::default();
                }
                route.rate_limit.take_if(|_| lacks.contains("RATELIMIT_SET"));
                route.circuit_breaker.take_if(|_| lacks.contains("CIRCUIT_BREAKER_SET"));
                Cow::Owned(route)
            }
        }
    }

    /// The routes that it cannot have beside the others, which serve their claims.
    pub(crate) fn surplus(&self, wanted: &Routes) -> BTreeSet<RouteKey> {
        match self {
            Dialect::Ours { .. } => BTreeSet::new(),
            Dialect::Reference => reference::surplus(wanted),
        }
    }

    pub(super) fn unsupported(&self, wanted: &Routes) -> Vec<Unsupported> {
        match self {
            Dialect::Reference => reference::unsupported(wanted),
            Dialect::Ours { .. } => {
                let notes = wanted.iter().flat_map(|(key, route)| {
                    let options = self.options_left_out(key, route);
                    let asked = [
                        ("HEADERS_SET", "response headers", route.headers != Headers::default()),
                        ("RATELIMIT_SET", "rate limits", route.rate_limit.is_some()),
                        ("CIRCUIT_BREAKER_SET", "circuit breakers", route.circuit_breaker.is_some()),
                    ];
                    let lacked =
                        asked.into_iter().filter(|(command, _, asked)| *asked && self.lacks(command));
                    let settings = lacked.map(|(_, what, _)| Unsupported {
                        key: key.clone(),
                        what: format!("this registry knows no {what}: the route has none"),
                    });
                    options.chain(settings)
                });
                notes.collect()
            }
        }
    }

    /// Whether it acts on the option and needs to be told.
    fn takes(&self, option: &RouteOption) -> bool {
        self.understands(option) && !is_for_others(option)
    }

    /// Whether it acts on the option, or keeps what it does not act on.
    pub(super) fn understands(&self, option: &RouteOption) -> bool {
        option.key().capability().is_none_or(|capability| self.has(capability))
    }

    /// A note for each option that it would not act on.
    pub(super) fn options_left_out(
        &self,
        key: &RouteKey,
        route: &Route,
    ) -> impl Iterator<Item = Unsupported> {
        let options = route.options.iter().filter(|option| !self.understands(option));
        options.map(|option| Unsupported {
            key: key.clone(),
            what: format!("the option {} is not understood: the route has none", option.key()),
        })
    }

    /// How many commands may wait for their replies at once.
    pub(crate) fn window(&self) -> usize {
        match self {
            Dialect::Ours { .. } => 32,
            Dialect::Reference => 1,
        }
    }
}

/// Whether a route says this only because another dialect has another default: upgrades are on at a server of ours unless
/// they are turned off, and off at a reference server unless they are turned on. Here it would cost a command for nothing.
fn is_for_others(option: &RouteOption) -> bool {
    *option == RouteOption::Websocket(true)
}
