//! What of the model has changed: it is cut into parts, and those that differ are sent (pure).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::view::View;

/// The parts of the model, each as JSON: `server`, `traffic`, `certificates`, `cluster`, `events`, `totals`, and for each
/// service `service:NAME` without its traffic, and `traffic:NAME` if there is any.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Parts(BTreeMap<String, String>);

impl Parts {
    pub(super) fn of(view: View) -> Self {
        let mut parts = BTreeMap::from([
            ("server".to_owned(), json(&view.server)),
            ("traffic".to_owned(), json(&view.traffic)),
            ("certificates".to_owned(), json(&view.certificates)),
            ("cluster".to_owned(), json(&view.cluster)),
            ("events".to_owned(), json(&view.events)),
            ("totals".to_owned(), json(&serde_json::json!({ "services": view.services_total }))),
        ]);
        for mut service in view.services {
            let traffic = std::mem::take(&mut service.traffic);
            if !traffic.rate.is_empty() {
                parts.insert(format!("traffic:{}", service.name), json(&traffic));
            }
            parts.insert(format!("service:{}", service.name), json(&service));
        }
        Parts(parts)
    }

    /// The event that tells everything.
    pub(super) fn all(&self) -> String {
        event("all", self.0.iter(), &[])
    }

    /// The event that leads from `before` to here. `None`: nothing has changed.
    pub(super) fn since(&self, before: &Parts) -> Option<String> {
        let set = self.0.iter().filter(|(key, part)| before.0.get(*key) != Some(part));
        let gone: Vec<&String> = before.0.keys().filter(|key| !self.0.contains_key(*key)).collect();
        if gone.is_empty() && set.clone().next().is_none() {
            return None;
        }
        Some(event("change", set, &gone))
    }
}

/// A server-sent event: one line of JSON.
fn event<'a>(name: &str, set: impl Iterator<Item = (&'a String, &'a String)>, gone: &[&String]) -> String {
    let mut text = format!("event: {name}\ndata: {{\"set\":{{");
    for (number, (key, part)) in set.enumerate() {
        let comma = if number == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{}:{part}", json(key));
    }
    let _ = write!(text, "}},\"gone\":{}}}\n\n", json(&gone));
    text
}

/// JSON has no bare line feed, so it fits a line.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::admin::live::view::{ServiceView, Traffic};

    fn view(services: &[(&str, u64)]) -> View {
        let service = |(name, in_flight): &(&str, u64)| ServiceView {
            name: (*name).to_owned(),
            in_flight: *in_flight,
            traffic: Traffic { rate: vec![1.5], ..Traffic::default() },
            ..ServiceView::default()
        };
        View { services: services.iter().map(service).collect(), ..View::default() }
    }

    fn data(event: &str) -> serde_json::Value {
        let line = event.lines().nth(1).unwrap();
        serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap()
    }

    #[test]
    fn only_what_differs_is_told() {
        let before = Parts::of(view(&[("a", 1), ("b\n\"", 2)]));
        assert_eq!(Parts::of(view(&[("a", 1), ("b\n\"", 2)])).since(&before), None);
        let after = Parts::of(view(&[("a", 3)])).since(&before).unwrap();
        assert!(after.starts_with("event: change\n") && after.ends_with("\n\n"));
        let data = data(&after);
        assert_eq!(data["set"].as_object().unwrap().len(), 1, "{data}");
        assert_eq!(data["set"]["service:a"]["in_flight"], 3);
        assert_eq!(data["gone"], serde_json::json!(["service:b\n\"", "traffic:b\n\""]));
    }

    #[test]
    fn everything_is_one_event_of_one_line() {
        let all = Parts::of(view(&[("a", 1)])).all();
        assert_eq!(all.lines().count(), 3);
        assert_eq!(data(&all)["set"]["traffic:a"]["rate"][0], 1.5);
    }
}
