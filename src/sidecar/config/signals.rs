//! STOP_SIGNAL and SIGNAL_REWRITE: signals by name or number.

use rustix::process::Signal;
use signal_hook::low_level::signal_name;

use registry_client::protocol::Invalid;

/// The most rules that SIGNAL_REWRITE may have; there are no more signals.
const MAX_REWRITES: usize = 31;

pub(super) fn stop_signal(text: &str) -> Result<Signal, Invalid> {
    let refuse = |reason: &'static str| Invalid::new("signal", text, reason, "SIGQUIT");
    let signal = signal(text)?;
    if signal == Signal::KILL {
        return Err(refuse("it stops nothing in order: SIDECAR_STOP_GRACE_PERIOD says when to kill"));
    }
    if signal_hook::consts::FORBIDDEN.contains(&signal.as_raw()) {
        return Err(refuse("no program is stopped with it"));
    }
    Ok(signal)
}

fn signal(text: &str) -> Result<Signal, Invalid> {
    let refuse = || Invalid::new("signal", text, "it is no signal's name or number (1 to 31)", "SIGQUIT");
    parse(text).ok_or_else(refuse)
}

/// Parses rules `from:to`, separated by commas or blanks.
pub(super) fn rewrites(text: &str) -> Result<Vec<(Signal, Signal)>, Invalid> {
    let refuse = |value: &str, reason| Err(Invalid::new("rewrite", value, reason, "15:3"));
    let mut rules = Vec::new();
    for item in text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty()) {
        let Some((from, to)) = item.split_once(':') else {
            return refuse(item, "it is not of the form from:to");
        };
        let (from, to) = (signal(from)?, signal(to)?);
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

/// Parses a signal's name, with or without SIG and in any case, or its number. Realtime signals are not accepted.
pub(crate) fn parse(text: &str) -> Option<Signal> {
    let upper = text.to_ascii_uppercase();
    let number = match upper.parse() {
        Ok(number) => number,
        Err(_) => {
            let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
            (1..=31).find(|number| signal_name(*number) == Some(name.as_str()))?
        }
    };
    Signal::from_named_raw(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["SIGQUIT", "quit", "3", "Quit"] {
            assert_eq!(parse(text), Some(Signal::QUIT), "{text}");
        }
        for text in ["", "SIG", "0", "99", "64", "stopp", "-3"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
