//! Whether what came out is what the model foresaw.

use std::io::Read as _;
use std::time::SystemTime;

use base64::Engine as _;
use serde_json::Value;

use super::model::Want;
use super::world::Ids;

/// When the story began, and how far moments and lengths of time may be from what was foreseen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub epoch: SystemTime,
    pub tolerance_ms: f64,
}

/// Replies say whole seconds.
pub(crate) const ROUNDING: f64 = 501.0;

/// Compares a line with what must come, and learns ids on the way.
pub(crate) fn line(want: &Want, got: &str, ids: &mut Ids, clock: Clock) -> Result<(), String> {
    let got = &ids.hide(got);
    let as_wanted = match want {
        Want::Exactly(text) => got == text,
        Want::Begins(text) => got.len() > text.len() && got.starts_with(text.as_str()),
        Want::Registered(number) => match got.strip_prefix("ACK|") {
            Some(id) if !id.starts_with('@') && is_an_id(id) => {
                ids.learn(*number, id)?;
                true
            }
            _ => false,
        },
        Want::DrainUntil(ms) => got.strip_prefix("DRAIN_OK|").is_some_and(|at| is_moment(at, *ms, clock)),
        Want::Json(word, body) => {
            let rest = got.strip_prefix(word).and_then(|rest| rest.strip_prefix('|'));
            let parsed = rest.and_then(|rest| serde_json::from_str(rest).ok());
            parsed.is_some_and(|parsed: Value| same(body, &parsed, clock))
        }
        Want::Compressed(word, body) => {
            let rest = got.strip_prefix(word).and_then(|rest| rest.strip_prefix('|'));
            rest.and_then(unpack).is_some_and(|parsed| same(body, &parsed, clock))
        }
    };
    if as_wanted { Ok(()) } else { Err(format!("the model says {}\n   the core says {got}", show(want))) }
}

/// `<instance>-<unix ms>-<random>`, the latter of 128 bits (PROTOCOL section 2).
fn is_an_id(id: &str) -> bool {
    let mut parts = id.rsplitn(3, '-');
    let random = parts.next().is_some_and(|r| r.len() == 32 && r.chars().all(|c| c.is_ascii_hexdigit()));
    let millis = parts.next().is_some_and(|ms| ms.parse::<u64>().is_ok());
    random && millis && parts.next().is_some()
}

fn unpack(text: &str) -> Option<Value> {
    let zipped = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    let mut json = String::new();
    flate2::read::GzDecoder::new(zipped.as_slice()).read_to_string(&mut json).ok()?;
    serde_json::from_str(&json).ok()
}

fn same(want: &Value, got: &Value, clock: Clock) -> bool {
    match (want, got) {
        (Value::String(any), _) if any == "*" => true,
        (Value::String(text), Value::String(at)) if text.starts_with("ms:") => {
            text[3..].parse().is_ok_and(|ms| is_moment(at, ms, clock))
        }
        (Value::Object(want), Value::Object(got)) => {
            let is_same = |(key, value): (&String, &Value)| {
                let other = got.get(key);
                other.is_some_and(|other| {
                    if is_time(key) { near(value, other, clock) } else { same(value, other, clock) }
                })
            };
            want.len() == got.len() && want.iter().all(is_same)
        }
        (Value::Array(want), Value::Array(got)) => {
            want.len() == got.len() && want.iter().zip(got).all(|(one, other)| same(one, other, clock))
        }
        (Value::Number(want), Value::Number(got)) => want.as_f64() == got.as_f64(),
        _ => want == got,
    }
}

/// Fields that say how long something has taken.
fn is_time(key: &str) -> bool {
    matches!(key, "uptime_seconds" | "elapsed_seconds")
}

fn near(want: &Value, got: &Value, clock: Clock) -> bool {
    let within = if clock.tolerance_ms > ROUNDING { clock.tolerance_ms / 1000.0 } else { 1e-6 };
    want.as_f64().zip(got.as_f64()).is_some_and(|(want, got)| (want - got).abs() <= within)
}

fn is_moment(text: &str, ms: u64, clock: Clock) -> bool {
    let Ok(at) = text.parse::<jiff::Timestamp>() else { return false };
    let since =
        clock.epoch.duration_since(SystemTime::UNIX_EPOCH).expect("it is after it").as_millis() as f64;
    (at.as_millisecond() as f64 - since - ms as f64).abs() <= clock.tolerance_ms
}

fn show(want: &Want) -> String {
    match want {
        Want::Exactly(text) => text.clone(),
        Want::Begins(text) => format!("{text}…"),
        Want::Json(word, body) => format!("{word}|{body}"),
        Want::Compressed(word, body) => format!("{word}|{body}, compressed"),
        Want::DrainUntil(ms) => format!("DRAIN_OK|ms:{ms}"),
        Want::Registered(number) => format!("ACK|@{number}"),
    }
}
