//! The options of a route on which only this project's server acts, each with a variable and a key in ROUTES.

use std::collections::BTreeMap;

use crate::environment::{Reader, Reported, reason_of};
use registry_client::protocol::{Invalid, OptionKey, RouteOption};
use serde_json::Value;

use super::raw::Raw;

/// The options that are set, each key once.
pub(super) type MoreOptions = BTreeMap<OptionKey, RouteOption>;

/// The keys of `health` in ROUTES that are options.
pub(super) const HEALTH: [(&str, OptionKey); 4] = [
    ("host", OptionKey::HealthHost),
    ("status", OptionKey::HealthStatus),
    ("rise", OptionKey::HealthRise),
    ("fall", OptionKey::HealthFall),
];

/// The other keys in ROUTES that are options.
pub(super) const KEYS: [(&str, OptionKey); 6] = [
    ("strip_prefix", OptionKey::StripPrefix),
    ("sticky", OptionKey::Sticky),
    ("redirect", OptionKey::Redirect),
    ("allow_from", OptionKey::AllowFrom),
    ("body_limit", OptionKey::BodyLimit),
    ("weight", OptionKey::Weight),
];

/// What the variables say.
pub(super) fn from_variables(raw: &mut Raw, reader: &mut Reader) -> Result<MoreOptions, Reported> {
    let variables = [
        ("HEALTH_HOST", raw.health_host.take(), OptionKey::HealthHost),
        ("HEALTH_STATUS", raw.health_status.take(), OptionKey::HealthStatus),
        ("HEALTH_RISE", raw.health_rise.take(), OptionKey::HealthRise),
        ("HEALTH_FALL", raw.health_fall.take(), OptionKey::HealthFall),
        ("STRIP_PREFIX", raw.strip_prefix.take(), OptionKey::StripPrefix),
        ("STICKY", raw.sticky.take(), OptionKey::Sticky),
        ("ALLOW_FROM", raw.allow_from.take(), OptionKey::AllowFrom),
        ("BODY_LIMIT", raw.body_limit.take(), OptionKey::BodyLimit),
        ("WEIGHT", raw.weight.take(), OptionKey::Weight),
    ];
    let mut options = MoreOptions::new();
    let mut outcome = auth(raw, reader).map(|auth| set(&mut options, auth));
    for (name, text, key) in variables {
        match reader.optional(name, text, |text| RouteOption::parse(key, text)) {
            Ok(option) => set(&mut options, option),
            Err(Reported) => outcome = Err(Reported),
        }
    }
    outcome.map(|()| options)
}

/// BASIC_AUTH or FORWARD_AUTH.
fn auth(raw: &mut Raw, reader: &mut Reader) -> Result<Option<RouteOption>, Reported> {
    let basic = reader.optional("BASIC_AUTH", raw.basic_auth.take(), |text| auth_option(BASIC, text));
    let forward = reader.optional("FORWARD_AUTH", raw.forward_auth.take(), |text| auth_option(FORWARD, text));
    match (basic?, forward?) {
        (Some(_), Some(_)) => {
            let reason = "it is set beside BASIC_AUTH: a route has one of the two";
            Err(reader.refuse("FORWARD_AUTH", reason.to_owned()))
        }
        (basic, forward) => Ok(basic.or(forward)),
    }
}

/// The two kinds of the option `auth`.
const BASIC: &str = "basic";
const FORWARD: &str = "forward";

fn auth_option(kind: &str, text: &str) -> Result<RouteOption, Invalid> {
    // Comments and empty lines are no entries of htpasswd.
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join(" ");
    RouteOption::parse(OptionKey::Auth, &format!("{kind} {}", joined.trim()))
}

/// Sets the option `auth` to what `basic_auth` or `forward_auth` in ROUTES says; `None`: it is neither. The reason of a
/// mistake quotes nothing.
pub(super) fn auth_from_json(
    options: &mut MoreOptions,
    key: &str,
    value: &Value,
) -> Option<Result<(), String>> {
    let kind =
        [("basic_auth", BASIC), ("forward_auth", FORWARD)].into_iter().find(|(name, _)| *name == key)?.1;
    let option = match value {
        Value::Bool(false) => {
            options.remove(&OptionKey::Auth);
            return Some(Ok(()));
        }
        Value::String(text) => auth_option(kind, text),
        _ => return Some(Err("it is neither a string nor false".to_owned())),
    };
    Some(option.map(|option| set(options, Some(option))).map_err(|refused| refused.reason.into_owned()))
}

/// Sets an option to what ROUTES says. `false` takes away what would be inherited.
pub(super) fn from_json(options: &mut MoreOptions, key: OptionKey, value: &Value) -> Result<(), String> {
    let text = match value {
        Value::Bool(false) => {
            options.remove(&key);
            return Ok(());
        }
        Value::String(text) => text.trim().to_owned(),
        Value::Number(_) | Value::Bool(true) => value.to_string(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        Value::Null | Value::Array(_) | Value::Object(_) => {
            return Err("it is no string, number, boolean or list of strings".to_owned());
        }
    };
    let option = RouteOption::parse(key, &text).map_err(|refused| reason_of(&refused, &text))?;
    set(options, Some(option));
    Ok(())
}

/// Puts an option in that says anything but the default.
fn set(options: &mut MoreOptions, option: Option<RouteOption>) {
    if let Some(option) = &option {
        options.remove(&option.key());
    }
    options.extend(option.filter(|option| !option.is_default()).map(|option| (option.key(), option)));
}
