//! Durations in Go's text form (`300ms`, `1m30s`), which is what the wire and the environment use.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Invalid;

/// A duration that is read and written as Go does it. A bare integer is read as seconds, because the
/// reference client sends one ([PROTOCOL section 5](crate::spec::protocol#5-values)). Never negative; at most Go's maximum of 2⁶³-1 ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GoDuration(Duration);

const EXAMPLE: &str = "30s";
const MAX_NANOS: u128 = i64::MAX as u128;
/// The units of Go, and how many nanoseconds each has. Longer names first where one begins another.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl GoDuration {
    /// No time at all.
    pub const ZERO: GoDuration = GoDuration(Duration::ZERO);

    /// A duration of whole seconds.
    pub const fn from_secs(seconds: u32) -> Self {
        GoDuration(Duration::from_secs(seconds as u64))
    }

    /// The same as std's type.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whether it is zero; many fields refuse that.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// Itself, or the refusal of a zero where it makes no sense ([PROTOCOL section 5](crate::spec::protocol#5-values)).
    pub fn non_zero(self) -> Result<Self, Invalid> {
        if self.is_zero() {
            return Err(refusal("0s", "it must be more than zero"));
        }
        Ok(self)
    }

    /// Reads a duration that must be more than zero. The refusal quotes the text as it was given.
    pub fn above_zero(text: &str) -> Result<Self, Invalid> {
        let duration: GoDuration = text.parse()?;
        duration.non_zero().map_err(|invalid| Invalid { value: text.to_owned(), ..invalid })
    }
}

impl From<GoDuration> for Duration {
    fn from(duration: GoDuration) -> Duration {
        duration.0
    }
}

impl TryFrom<Duration> for GoDuration {
    type Error = Invalid;

    fn try_from(duration: Duration) -> Result<Self, Invalid> {
        if duration.as_nanos() > MAX_NANOS {
            return Err(refusal(&format!("{duration:?}"), "longer than about 292 years"));
        }
        Ok(GoDuration(duration))
    }
}

fn refusal(value: &str, reason: &'static str) -> Invalid {
    Invalid::new("duration", value, reason, EXAMPLE)
}

impl FromStr for GoDuration {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Err(refusal(text, "it is empty"));
        }
        if text.starts_with('-') {
            return Err(refusal(text, "it is negative"));
        }
        let body = text.strip_prefix('+').unwrap_or(text);
        let nanos = if !body.is_empty() && body.bytes().all(|b| b.is_ascii_digit()) {
            whole(body).and_then(|seconds| seconds.checked_mul(1_000_000_000))
        } else {
            sum_of_parts(text, body)?
        };
        match nanos {
            Some(nanos) if nanos <= MAX_NANOS => {
                Ok(GoDuration(Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32)))
            }
            _ => Err(refusal(text, "longer than about 292 years")),
        }
    }
}

/// Adds up `1h2m3.5s`. `Ok(None)` is an overflow, so that only the caller words it.
fn sum_of_parts(text: &str, mut rest: &str) -> Result<Option<u128>, Invalid> {
    let malformed = || refusal(text, "not a number with a unit of ns, us, ms, s, m or h");
    let mut total: u128 = 0;
    if rest.is_empty() {
        return Err(malformed());
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let scale = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?.1;
        let Some(nanos) = scaled(number, scale).ok_or_else(malformed)? else { return Ok(None) };
        let Some(sum) = total.checked_add(nanos) else { return Ok(None) };
        total = sum;
        rest = next;
    }
    Ok(Some(total))
}

/// `number` (digits with at most one dot) times `scale`. The outer `None` is a malformed number, the
/// inner one an overflow.
fn scaled(number: &str, scale: u128) -> Option<Option<u128>> {
    let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (integer.is_empty() && fraction.is_empty()) {
        return None;
    }
    let Some(integer) = whole(integer) else { return Some(None) };
    // Digits below a nanosecond have no effect, whatever their number.
    let digits = &fraction[..fraction.len().min(18)];
    let part = whole(digits)? * scale / 10u128.pow(digits.len() as u32);
    Some(integer.checked_mul(scale).and_then(|n| n.checked_add(part)))
}

fn whole(digits: &str) -> Option<u128> {
    if digits.is_empty() { Some(0) } else { digits.parse::<u64>().ok().map(u128::from) }
}

impl fmt::Display for GoDuration {
    /// The shortest text that Go and we read back to the same value: `1h`, `1m30s`, `1.5s`, `300ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_nanos();
        if total == 0 {
            return f.write_str("0s");
        }
        if total < 1_000_000_000 {
            let (name, scale) = match total {
                0..1_000 => ("ns", 1),
                1_000..1_000_000 => ("us", 1_000),
                _ => ("ms", 1_000_000),
            };
            return write_decimal(f, total, scale, name);
        }
        let (hours, minutes) = (total / UNITS[7].1, total % UNITS[7].1 / UNITS[6].1);
        let seconds = total % UNITS[6].1;
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if seconds > 0 {
            write_decimal(f, seconds, 1_000_000_000, "s")?;
        }
        Ok(())
    }
}

fn write_decimal(f: &mut fmt::Formatter<'_>, nanos: u128, scale: u128, unit: &str) -> fmt::Result {
    let (integer, fraction) = (nanos / scale, nanos % scale);
    if fraction == 0 {
        return write!(f, "{integer}{unit}");
    }
    let width = scale.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    write!(f, "{integer}.{}{unit}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos_or_whole_seconds() {
        for (given, nanos, written) in [
            ("300ms", 300_000_000, "300ms"),
            ("30s", 30_000_000_000, "30s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1h", 3_600_000_000_000, "1h"),
            ("1h0m0.5s", 3_600_500_000_000, "1h0.5s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            (".5s", 500_000_000, "500ms"),
            ("5.s", 5_000_000_000, "5s"),
            ("10us", 10_000, "10us"),
            ("10µs", 10_000, "10us"),
            ("1ns", 1, "1ns"),
            ("+2s", 2_000_000_000, "2s"),
            ("30", 30_000_000_000, "30s"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
        ] {
            let duration: GoDuration = given.parse().unwrap();
            assert_eq!(duration.get().as_nanos(), nanos, "{given}");
            assert_eq!(duration.to_string(), written, "{given}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for given in
            ["", "-1s", "s", "1x", "1 s", "1.2.3s", ".s", "+", "1s2", "9999999h", "99999999999999999999"]
        {
            assert!(given.parse::<GoDuration>().is_err(), "{given:?} must be refused");
        }
    }
}
