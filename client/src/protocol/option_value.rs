//! The values of options that are more than a boolean or a duration (PROTOCOL section 5).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::value::write_joined;
use super::{Domain, Invalid};

/// How many ranges an [`AcceptedStatuses`] has at most.
const MAX_RANGES: usize = 16;

/// The statuses with which a health check passes: single ones and ranges from 100 to 599, at least one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AcceptedStatuses(Arc<[StatusRange]>);

/// From the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct StatusRange {
    first: u16,
    last: u16,
}

impl AcceptedStatuses {
    /// Whether a check passes with this status.
    pub fn accepts(&self, status: u16) -> bool {
        self.0.iter().any(|range| (range.first..=range.last).contains(&status))
    }
}

impl FromStr for AcceptedStatuses {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |reason: &'static str| Invalid::new("statuses", text, reason, "200-399,404");
        let ranges: Result<Vec<_>, _> = text.split(',').map(|part| range(part.trim())).collect();
        let ranges =
            ranges.map_err(|NoRange| refuse("it is no list of statuses and ranges between 100 and 599"))?;
        if ranges.len() > MAX_RANGES {
            return Err(refuse("more than 16 ranges"));
        }
        Ok(AcceptedStatuses(ranges.into()))
    }
}

struct NoRange;

fn range(text: &str) -> Result<StatusRange, NoRange> {
    let status = |text: &str| match text.parse() {
        Ok(status @ 100..=599) if text.len() == 3 => Ok(status),
        _ => Err(NoRange),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (status(first)?, status(last)?);
    if first <= last { Ok(StatusRange { first, last }) } else { Err(NoRange) }
}

impl fmt::Display for AcceptedStatuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_joined(f, &self.0)
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StatusRange { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

/// How many checks in a row decide: 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckCount(u8);

impl CheckCount {
    const MAX: u8 = 100;

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl FromStr for CheckCount {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse() {
            Ok(count @ 1..=CheckCount::MAX) if !text.starts_with('+') => Ok(CheckCount(count)),
            _ => Err(Invalid::new("number of checks", text, "it is no whole number from 1 to 100", "3")),
        }
    }
}

impl fmt::Display for CheckCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A domain that is no wildcard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExactDomain(Domain);

impl ExactDomain {
    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.0
    }
}

impl FromStr for ExactDomain {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let domain: Domain = text.parse()?;
        if domain.is_wildcard() {
            return Err(Invalid::new(
                "host",
                text,
                "it is a wildcard: write one of its names",
                "app.example.com",
            ));
        }
        Ok(ExactDomain(domain))
    }
}

impl fmt::Display for ExactDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_single_ones_and_ranges() {
        let statuses: AcceptedStatuses = "200-299, 404".parse().unwrap();
        assert_eq!(statuses.to_string(), "200-299,404");
        for (status, passes) in
            [(199, false), (200, true), (299, true), (300, false), (404, true), (500, false)]
        {
            assert_eq!(statuses.accepts(status), passes, "{status}");
        }
        let many = ["200"; 17].join(",");
        for refused in ["", "2xx", "200,", "99", "600", "299-200", "0200", "+200", "200-", "-200", &many] {
            assert!(refused.parse::<AcceptedStatuses>().is_err(), "{refused:?}");
        }
    }

    #[test]
    fn checks_in_a_row_are_few() {
        assert_eq!("100".parse::<CheckCount>().unwrap().get(), 100);
        for refused in ["", "0", "101", "-1", "+1", "many"] {
            assert!(refused.parse::<CheckCount>().is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_host_to_ask_for_is_no_wildcard() {
        assert_eq!("App.example.com".parse::<ExactDomain>().unwrap().to_string(), "app.example.com");
        assert!("*.example.com".parse::<ExactDomain>().is_err());
        assert!("http://a".parse::<ExactDomain>().is_err());
    }
}
