//! The values of options that are more than a boolean or a duration (PROTOCOL section 5).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;

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

/// How many networks a [`Networks`] has at most.
const MAX_NETWORKS: usize = 256;

/// Addresses that may: single ones and networks, at least one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Networks(Arc<[IpNet]>);

impl Networks {
    /// Whether one of them has this address. An IPv4 address is the same in its IPv6 form.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl FromStr for Networks {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse =
            |reason: &'static str| Invalid::new("networks", text, reason, "10.0.0.0/8,2001:db8::/32");
        let network = |part: &str| match part.parse::<IpAddr>() {
            Ok(address) => Some(IpNet::from(address.to_canonical())),
            Err(_) => part.parse::<IpNet>().ok().map(|network| network.trunc()),
        };
        let parts = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty());
        let networks: Option<Vec<IpNet>> = parts.map(network).collect();
        match networks {
            None => Err(refuse("it is no list of addresses and networks")),
            Some(none) if none.is_empty() => Err(refuse("no address stands in it")),
            Some(many) if many.len() > MAX_NETWORKS => Err(refuse("more than 256 networks")),
            Some(networks) => Ok(Networks(networks.into())),
        }
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_joined(f, &self.0)
    }
}

/// A number of bytes: `10m` is 10 MiB. Zero: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteLimit(u64);

const BYTE_UNITS: [(char, u64); 3] = [('g', 1 << 30), ('m', 1 << 20), ('k', 1 << 10)];

impl ByteLimit {
    /// The most bytes; `None`: no limit.
    pub fn get(self) -> Option<u64> {
        (self.0 > 0).then_some(self.0)
    }
}

impl FromStr for ByteLimit {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let reason = "it is no whole number of bytes, or one with the unit k, m or g";
        let refuse = || Invalid::new("size", text, reason, "10m");
        let unit =
            BYTE_UNITS.into_iter().find(|(unit, _)| text.ends_with([*unit, unit.to_ascii_uppercase()]));
        let (digits, factor) = match unit {
            Some((_, factor)) => (&text[..text.len() - 1], factor),
            None => (text, 1),
        };
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse());
        }
        let count = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor));
        count.map(ByteLimit).ok_or_else(refuse)
    }
}

impl fmt::Display for ByteLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_whole = |(_, factor): &(char, u64)| self.0 > 0 && self.0.is_multiple_of(*factor);
        match BYTE_UNITS.into_iter().find(is_whole) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => self.0.fmt(f),
        }
    }
}

/// An instance's share beside the others of its claim: 0 to 1000, where 100 is usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(u16);

impl Weight {
    const MAX: u16 = 1000;

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Weight(100)
    }
}

impl FromStr for Weight {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse() {
            Ok(weight @ 0..=Weight::MAX) if !text.starts_with('+') => Ok(Weight(weight)),
            _ => Err(Invalid::new("weight", text, "it is no whole number from 0 to 1000", "10")),
        }
    }
}

impl fmt::Display for Weight {
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

    #[test]
    fn networks_are_addresses_and_prefixes_of_both_families() {
        let networks: Networks = "10.1.2.3/8, 192.0.2.1 2001:db8::/32".parse().unwrap();
        assert_eq!(networks.to_string(), "10.0.0.0/8,192.0.2.1/32,2001:db8::/32");
        assert_eq!(networks.to_string().parse::<Networks>().unwrap(), networks);
        for (address, may) in [
            ("10.255.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8::7", true),
            ("2001:db9::7", false),
        ] {
            assert_eq!(networks.contains(address.parse().unwrap()), may, "{address}");
        }
        for refused in ["", " ,", "10.0.0.0/33", "example.com", "10.0.0"] {
            assert!(refused.parse::<Networks>().is_err(), "{refused:?}");
        }
        assert!(["192.0.2.1"; 257].join(",").parse::<Networks>().is_err());
    }

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, bytes, shown) in [
            ("0", None, "0"),
            ("1000", Some(1000), "1000"),
            ("2048", Some(2048), "2k"),
            ("10M", Some(10 << 20), "10m"),
            ("1g", Some(1 << 30), "1g"),
        ] {
            let limit: ByteLimit = text.parse().unwrap();
            assert_eq!((limit.get(), limit.to_string().as_str()), (bytes, shown), "{text}");
        }
        for refused in ["", "m", "-1", "+1", "1.5m", "10mb", "99999999999g", "1é"] {
            assert!(refused.parse::<ByteLimit>().is_err(), "{refused:?}");
        }
    }

    #[test]
    fn weights_have_bounds() {
        assert_eq!("0".parse::<Weight>().unwrap().get(), 0);
        for refused in ["", "1001", "-1", "+1", "10%"] {
            assert!(refused.parse::<Weight>().is_err(), "{refused:?}");
        }
    }
}
