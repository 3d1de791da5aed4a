//! The addresses of this network namespace.

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

/// One address of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    /// `eth0`
    pub(crate) name: String,
    /// The kernel's index, which grows in the order in which interfaces were created.
    pub(crate) index: u32,
    /// The address.
    pub(crate) ip: IpAddr,
    /// The length of the subnet's prefix. 32 (128 for IPv6) marks a virtual address, such as that of a swarm service.
    pub(crate) prefix_len: u8,
}

/// The addresses of this network namespace, loopback included.
///
/// # Errors
/// The system's, where it does not list the interfaces.
pub(crate) fn interfaces() -> io::Result<Vec<Interface>> {
    let found = if_addrs::get_if_addrs()?;
    Ok(found
        .into_iter()
        .map(|found| Interface {
            ip: found.ip(),
            prefix_len: match &found.addr {
                if_addrs::IfAddr::V4(addr) => addr.prefixlen,
                if_addrs::IfAddr::V6(addr) => addr.prefixlen,
            },
            index: found.index.unwrap_or(u32::MAX),
            name: found.name,
        })
        .collect())
}

impl Interface {
    pub(super) fn is_loopback(&self) -> bool {
        // Engines put virtual addresses on `lo` too, so the address alone does not tell.
        self.ip.is_loopback() || self.name == "lo"
    }

    pub(super) fn is_virtual(&self) -> bool {
        !self.ip.is_loopback() && self.prefix_len == if self.ip.is_ipv4() { 32 } else { 128 }
    }

    /// Whether another host may reach it.
    pub(super) fn leads_out(&self) -> bool {
        !self.is_loopback() && !is_link_local(self.ip)
    }

    /// Whether `ip` is in its subnet.
    pub(super) fn reaches(&self, ip: IpAddr) -> bool {
        IpNet::new(self.ip, self.prefix_len).is_ok_and(|subnet| subnet.contains(&ip))
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_virtual() {
            false => write!(f, "{} ({})", self.ip, self.name),
            true => write!(f, "{} ({}, virtual)", self.ip, self.name),
        }
    }
}

pub(super) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_knows_its_loopback_interface() {
        let ip = IpAddr::from([127, 0, 0, 1]);
        let loopback = interfaces().unwrap().into_iter().find(|found| found.ip == ip).unwrap();
        assert_eq!((loopback.name.as_str(), loopback.prefix_len), ("lo", 8));
    }
}
