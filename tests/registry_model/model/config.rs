//! What a session has applied, and what it has staged: two whole copies of the same thing.

use super::command::{NewRoute, OptionValue};

/// Settings of a route, or a session's defaults. Durations are milliseconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Cells {
    /// Name in lower case, and value; each name once.
    pub headers: Vec<(String, String)>,
    pub options: Vec<(String, OptionValue)>,
    pub health_path: Option<String>,
    /// `health_check_interval` and `health_check_timeout` are the cells of HEALTH_SET.
    pub health_interval: Option<u64>,
    pub health_timeout: Option<u64>,
    /// Requests and window; zero requests: none, whatever the default says.
    pub limit: Option<(u32, u64)>,
    /// Threshold, time-out, half-open requests; threshold zero: none.
    pub breaker: Option<(u32, u64, u32)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Route {
    pub id: u32,
    pub domains: Vec<String>,
    pub path: String,
    pub backend: String,
    pub priority: i32,
    pub cells: Cells,
}

/// Everything that CONFIG_APPLY puts in force.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Config {
    /// In the order of their ids.
    pub routes: Vec<Route>,
    pub defaults: Cells,
}

impl Config {
    pub(crate) fn route(&self, id: u32) -> Option<&Route> {
        self.routes.iter().find(|route| route.id == id)
    }

    pub(crate) fn route_mut(&mut self, id: u32) -> Option<&mut Route> {
        self.routes.iter_mut().find(|route| route.id == id)
    }

    /// What holds for a route: its own settings before the session's.
    pub(crate) fn effective(&self, route: &Route) -> Cells {
        let (own, base) = (&route.cells, &self.defaults);
        let mut headers = own.headers.clone();
        for (name, value) in &base.headers {
            if !has_header(&headers, name) {
                headers.push((name.clone(), value.clone()));
            }
        }
        let mut options = own.options.clone();
        for (key, value) in &base.options {
            if !options.iter().any(|(own, _)| own == key) {
                options.push((key.clone(), value.clone()));
            }
        }
        Cells {
            headers,
            options,
            health_path: own.health_path.clone().or_else(|| base.health_path.clone()),
            health_interval: own.health_interval.or(base.health_interval),
            health_timeout: own.health_timeout.or(base.health_timeout),
            limit: own.limit.or(base.limit).filter(|(requests, _)| *requests > 0),
            breaker: own.breaker.or(base.breaker).filter(|(threshold, ..)| *threshold > 0),
        }
    }
}

impl Route {
    pub(crate) fn new(id: u32, new: NewRoute) -> Self {
        let NewRoute { domains, path, backend, priority } = new;
        Route { id, domains, path, backend, priority, cells: Cells::default() }
    }

    /// What a check sends as Host where no option says it: the first domain that is no wildcard, or `www` below the first wildcard.
    pub(crate) fn host(&self) -> Option<String> {
        let exact = self.domains.iter().find(|domain| !domain.starts_with("*.")).cloned();
        exact.or_else(|| Some(self.domains.first()?.replacen('*', "www", 1)))
    }
}

fn has_header(headers: &[(String, String)], name: &str) -> bool {
    headers.iter().any(|(known, _)| known == name)
}

impl Cells {
    pub(crate) fn set_header(&mut self, name: &str, value: &str) {
        self.remove_header(name);
        self.headers.push((name.to_lowercase(), value.to_owned()));
        self.headers.sort();
    }

    pub(crate) fn remove_header(&mut self, name: &str) {
        self.headers.retain(|(known, _)| *known != name.to_lowercase());
    }

    pub(crate) fn set_option(&mut self, key: &str, value: OptionValue) {
        self.remove_option(key);
        match (key, &value) {
            ("health_check_interval", OptionValue::Millis(ms)) => self.health_interval = Some(*ms),
            ("health_check_timeout", OptionValue::Millis(ms)) => self.health_timeout = Some(*ms),
            _ => self.options.push((key.to_owned(), value)),
        }
        self.options.sort_by(|a, b| a.0.cmp(&b.0));
    }

    pub(crate) fn remove_option(&mut self, key: &str) {
        match key {
            "health_check_interval" => self.health_interval = None,
            "health_check_timeout" => self.health_timeout = None,
            _ => self.options.retain(|(known, _)| known != key),
        }
    }

    /// The check that follows: path, interval, time-out. There is one as soon as either was said; zero takes it away.
    pub(crate) fn check(&self) -> Option<(String, u64, u64)> {
        let path = self.health_path.clone().or_else(|| self.health_interval.map(|_| "/".to_owned()))?;
        let interval = self.health_interval.unwrap_or(30_000);
        (interval > 0).then(|| (path, interval, self.health_timeout.unwrap_or(5_000)))
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> bool {
        match self.option(key) {
            Some(OptionValue::Flag(flag)) => flag,
            _ => default,
        }
    }

    pub(crate) fn millis(&self, key: &str) -> Option<u64> {
        match self.option(key) {
            Some(OptionValue::Millis(ms)) => Some(ms),
            _ => None,
        }
    }

    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        match self.option(key) {
            Some(OptionValue::Number(number)) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn text(&self, key: &str) -> Option<String> {
        match self.option(key) {
            Some(OptionValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn option(&self, key: &str) -> Option<OptionValue> {
        self.options.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
    }
}
