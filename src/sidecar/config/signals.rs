//! STOP_SIGNAL and SIGNAL_REWRITE: signals by name or number, realtime ones included.

use std::fmt;

use signal_hook::low_level::signal_name;

use registry_client::protocol::Invalid;

/// The first and the last realtime signal that programs may use. The kernel's first ones, 32 and 33, belong to libc.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;
/// The most rules that SIGNAL_REWRITE may have; there are no more signals.
const MAX_REWRITES: usize = 62;

/// A signal by its number: 1 to 31, or a realtime one, 34 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signal(i32);

#[expect(missing_docs, reason = "they are called as the signals are")]
impl Signal {
    pub const HUP: Signal = Signal(1);
    pub const INT: Signal = Signal(2);
    pub const QUIT: Signal = Signal(3);
    pub const KILL: Signal = Signal(9);
    pub const USR1: Signal = Signal(10);
    pub const TERM: Signal = Signal(15);
    pub const WINCH: Signal = Signal(28);
}

impl Signal {
    /// The signal of this number; `None` where there is none that a program may send.
    pub fn from_number(number: i32) -> Option<Signal> {
        matches!(number, 1..=31 | RTMIN..=RTMAX).then_some(Signal(number))
    }

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// All realtime signals.
    pub fn realtime() -> impl Iterator<Item = Signal> {
        (RTMIN..=RTMAX).map(Signal)
    }
}

impl fmt::Display for Signal {
    /// `SIGTERM`, `SIGRTMIN+3`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (signal_name(self.0), self.0) {
            (Some(name), _) => f.write_str(name),
            (None, RTMIN) => f.write_str("SIGRTMIN"),
            (None, RTMIN..=RTMAX) => write!(f, "SIGRTMIN+{}", self.0 - RTMIN),
            (None, number) => write!(f, "signal {number}"),
        }
    }
}

pub(super) fn stop_signal(text: &str) -> Result<Signal, Invalid> {
    let refuse = |reason: &'static str| Invalid::new("signal", text, reason, "SIGQUIT");
    let signal = signal(text)?;
    if signal == Signal::KILL {
        return Err(refuse("it stops nothing in order: SIDECAR_STOP_GRACE_PERIOD says when to kill"));
    }
    if signal_hook::consts::FORBIDDEN.contains(&signal.number()) {
        return Err(refuse("no program is stopped with it"));
    }
    Ok(signal)
}

fn signal(text: &str) -> Result<Signal, Invalid> {
    let refuse = || {
        let reason = "it is no signal's name or number (1 to 31, 34 to 64, SIGRTMIN+n, SIGRTMAX-n)";
        Invalid::new("signal", text, reason, "SIGQUIT")
    };
    parse(text).ok_or_else(refuse)
}

/// Parses rules `from:to`, separated by commas or blanks. The second is 0, and here `None`, where the signal is dropped.
pub(super) fn rewrites(text: &str) -> Result<Vec<(Signal, Option<Signal>)>, Invalid> {
    let refuse = |value: &str, reason| Err(Invalid::new("rewrite", value, reason, "15:3"));
    let mut rules = Vec::new();
    for item in text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty()) {
        let Some((from, to)) = item.split_once(':') else {
            return refuse(item, "it is not of the form from:to");
        };
        let from = signal(from)?;
        let to = if to == "0" { None } else { Some(signal(to)?) };
        if rules.iter().any(|(other, _)| *other == from) {
            return refuse(item, "its signal is rewritten twice");
        }
        rules.push((from, to));
    }
    if rules.len() > MAX_REWRITES {
        return refuse(text, "there are no so many signals");
    }
    Ok(rules)
}

/// Parses a signal's name, with or without SIG and in any case, or its number.
fn parse(text: &str) -> Option<Signal> {
    let upper = text.to_ascii_uppercase();
    if let Ok(number) = upper.parse() {
        return Signal::from_number(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str, sign: char| match text {
        "" => Some(0),
        text => {
            text.strip_prefix(sign).filter(|n| n.bytes().all(|b| b.is_ascii_digit()))?.parse::<i32>().ok()
        }
    };
    let in_range = |number: i32| (RTMIN..=RTMAX).contains(&number).then_some(Signal(number));
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return in_range(RTMIN.checked_add(offset(rest, '+')?)?);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return in_range(RTMAX.checked_sub(offset(rest, '-')?)?);
    }
    let full = format!("SIG{name}");
    (1..=31).find(|number| signal_name(*number) == Some(full.as_str())).map(Signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["SIGQUIT", "quit", "3", "Quit"] {
            assert_eq!(parse(text), Some(Signal::QUIT), "{text}");
        }
        for (text, number) in [
            ("SIGRTMIN+3", 37),
            ("rtmin+3", 37),
            ("37", 37),
            ("RTMIN", 34),
            ("SIGRTMIN+0", 34),
            ("RTMAX-1", 63),
            ("SIGRTMAX", 64),
            ("SIGRTMAX-30", 34),
        ] {
            assert_eq!(parse(text).map(Signal::number), Some(number), "{text}");
        }
        for text in [
            "",
            "SIG",
            "0",
            "99",
            "65",
            "32",
            "33",
            "stopp",
            "-3",
            "RTMIN-1",
            "RTMIN+31",
            "RTMAX+1",
            "RTMAX-31",
            "RTMIN+",
            "RTMIN+-3",
            "RTMIN3",
            "SIGSIGTERM",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_signal_is_shown_as_it_may_be_written() {
        for number in (1..=31).chain(RTMIN..=RTMAX) {
            let signal = Signal::from_number(number).unwrap();
            let shown = signal.to_string();
            assert!(parse(&shown) == Some(signal) || shown.starts_with("signal "), "{shown}");
        }
    }

    #[test]
    fn a_rule_may_drop_a_signal() {
        let usr1 = Signal::USR1;
        assert_eq!(rewrites("15:3 USR1:0").unwrap(), [(Signal::TERM, Some(Signal::QUIT)), (usr1, None)]);
        for text in ["0:3", "15", "15:x", "15:3,TERM:2"] {
            assert!(rewrites(text).is_err(), "{text}");
        }
    }
}
