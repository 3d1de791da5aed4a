//! Chooses the address to advertise to the proxy, and says why. Pure: it decides from lists.
//!
//! The order is BACKEND_HOST, then WEB_NET_CIDR, then the interface that leads to the registry, then the first
//! other address. It goes by subnets, never by interface names or the default route: in a swarm eth0 is the web
//! network on one host and the ingress network on another, and the default route leaves through docker_gwbridge.
//!
//! BACKEND_HOST may be a name that several containers have, for example where two Compose projects on one network both
//! call a service `app`. Taking any of its addresses could serve another project's application, so such a name is an
//! error ([`AddressError::Ambiguous`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use registry_client::protocol::Host;

use super::interfaces::{Interface, is_link_local};

/// What the choice depends on beside the interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// BACKEND_HOST with its addresses; `None` where it is not set.
    pub(crate) backend_host: Option<BackendHost>,
    /// WEB_NET_CIDR.
    pub(crate) web_net: IpNet,
    /// The address from which this host reaches the registry, where that is known.
    pub(crate) registry_local: Option<IpAddr>,
    /// Whether the application runs under this process, so that our address is its address.
    pub(crate) wrapped: bool,
}

/// BACKEND_HOST and the addresses to which it resolves at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackendHost {
    /// As configured.
    pub(crate) host: Host,
    /// Empty where the name does not resolve.
    pub(crate) addresses: Vec<IpAddr>,
}

/// The address to advertise. `Display` is its line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The address.
    pub(crate) ip: IpAddr,
    /// The interface that has the address, if it is one of ours.
    pub(crate) interface: Option<String>,
    /// Why this address was chosen.
    pub(crate) reason: Reason,
    /// The other addresses of this host, as `10.0.0.3 (eth0)`.
    pub(crate) others: Vec<String>,
}

/// Why an address was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// BACKEND_HOST resolves to it.
    BackendHost(Host),
    /// BACKEND_HOST resolves to another address of a subnet in which the wrapped application has this one.
    OwnBesideBackendHost(Host, IpAddr),
    /// It is inside WEB_NET_CIDR, as are the listed addresses.
    WebNet(IpNet, Vec<String>),
    /// It leads to the registry, and no address is inside WEB_NET_CIDR.
    RegistryConnection(IpNet),
    /// The registry is on this host's loopback interface.
    RegistryOnLoopback,
    /// It is the first address that is not on loopback: a guess.
    FirstOther(IpNet),
}

/// Why there is no address to advertise. The obstacle may pass, so try again after a while.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// BACKEND_HOST does not resolve at this moment.
    #[error("BACKEND_HOST {0} has no address: is its container running, on a network that we share?")]
    Unresolved(Host),
    /// BACKEND_HOST has several addresses where one container has one.
    #[error(
        "BACKEND_HOST {host} has the addresses {}, and nobody can tell which of them is the application's: {ADVICE}",
        joined(.addresses)
    )]
    Ambiguous {
        /// BACKEND_HOST.
        host: Host,
        /// All addresses of the name, sorted.
        addresses: Vec<IpAddr>,
    },
    /// Of a name that had several addresses these are left, and the application's is not known to be among them.
    #[error(
        "BACKEND_HOST {host} had several addresses, of which only {} is left, and that may be another \
         application's: {ADVICE}; if it is the right one, restart this container",
        joined(.left)
    )]
    Remaining {
        /// BACKEND_HOST.
        host: Host,
        /// The addresses that are left, sorted.
        left: Vec<IpAddr>,
    },
    /// The only interface is `lo`.
    #[error(
        "this network namespace has only the loopback interface: the container whose network this one shares \
         (network_mode: \"service:…\") has stopped or was restarted; restart this container after it, or give \
         it a network of its own and set BACKEND_HOST"
    )]
    OnlyLoopback,
    /// There are other interfaces, but no other host can reach their addresses.
    #[error("no address that the proxy could reach: there is only {}", .0.join(", "))]
    OnlyLinkLocal(Vec<String>),
}

/// Addresses that BACKEND_HOST had beside the application's, or while nobody could tell which one was the
/// application's. What is left of them later is not taken, because it may be another application's.
#[derive(Debug, Default)]
pub(super) struct Doubtful(BTreeMap<IpAddr, Host>);

impl Doubtful {
    pub(super) fn add(&mut self, host: &Host, addresses: impl IntoIterator<Item = IpAddr>) {
        self.0.extend(addresses.into_iter().map(|ip| (ip, host.clone())));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Why `choice` is not taken; `None` where nothing speaks against it. Our own address always is the application's
    /// around a command.
    pub(super) fn objection(&self, choice: &Choice) -> Option<AddressError> {
        let host = self.0.get(&choice.ip)?.clone();
        let is_own = matches!(choice.reason, Reason::OwnBesideBackendHost(..));
        (!is_own).then(|| AddressError::Remaining { host, left: vec![choice.ip] })
    }
}

/// What to write where a name has several addresses.
const ADVICE: &str = "set BACKEND_HOST to a name that no other container on its networks has (name the service so, or \
                      give it a network alias), or to its address; where all of them are replicas of one service, set \
                      SIDECAR_BACKEND_EACH_ADDRESS=true";

fn joined(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Choice {
    /// Whether an operator should look at it: it is a guess, or another host cannot reach it.
    pub(crate) fn is_doubtful(&self) -> bool {
        match self.reason {
            Reason::FirstOther(_) => true,
            Reason::RegistryOnLoopback => false,
            _ => self.ip.is_loopback(),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "advertising {}", self.ip)?;
        if let Some(name) = &self.interface {
            write!(f, " ({name})")?;
        }
        write!(f, ": {}", self.reason)?;
        if self.ip.is_loopback() && self.is_doubtful() {
            f.write_str("; a proxy on another host or in another container cannot reach it")?;
        }
        match self.others.is_empty() {
            true => Ok(()),
            false => write!(f, "; also saw {}", self.others.join(", ")),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::BackendHost(host) => write!(f, "the address of BACKEND_HOST {host}"),
            Reason::OwnBesideBackendHost(host, theirs) => {
                write!(f, "our own in the subnet of BACKEND_HOST {host} ({theirs})")
            }
            Reason::WebNet(net, alike) if alike.is_empty() => write!(f, "inside WEB_NET_CIDR {net}"),
            Reason::WebNet(net, alike) => {
                let verb = if alike.len() == 1 { "is" } else { "are" };
                write!(f, "inside WEB_NET_CIDR {net}, as {verb} {}", alike.join(", "))
            }
            Reason::RegistryConnection(net) => {
                write!(f, "the registry was reached from it, and no interface is inside WEB_NET_CIDR {net}")
            }
            Reason::RegistryOnLoopback => f.write_str("the registry is on this host's loopback interface"),
            Reason::FirstOther(net) => write!(
                f,
                "a guess, the first address there is: no interface is inside WEB_NET_CIDR {net} and the \
                 registry has not been reached; set SIDECAR_WEB_NET_CIDR to the network shared with the proxy"
            ),
        }
    }
}

/// Chooses the address to advertise. The order of the list does not matter.
///
/// # Errors
/// Says why no address can be advertised, and what to do about it.
pub(crate) fn choose(interfaces: &[Interface], inputs: &Inputs) -> Result<Choice, AddressError> {
    let mut seen: Vec<&Interface> = interfaces.iter().collect();
    seen.sort_by_key(|interface| rank(interface));
    if let Some(backend) = &inputs.backend_host {
        return backend_host(&seen, backend, inputs);
    }
    let inside: Vec<&Interface> =
        seen.iter().copied().filter(|interface| inputs.web_net.contains(&interface.ip)).collect();
    if let [first, alike @ ..] = &inside[..] {
        let alike = alike.iter().map(|interface| interface.to_string()).collect();
        return Ok(choice(&seen, first.ip, Reason::WebNet(inputs.web_net, alike)));
    }
    if let Some(ip) = inputs.registry_local.map(|ip| ip.to_canonical()) {
        if ip.is_loopback() {
            return Ok(choice(&seen, ip, Reason::RegistryOnLoopback));
        }
        if !is_link_local(ip) && !ip.is_unspecified() {
            return Ok(choice(&seen, ip, Reason::RegistryConnection(inputs.web_net)));
        }
    }
    let other = seen.iter().filter(|interface| interface.leads_out());
    match other.min_by_key(|interface| (interface.ip.is_ipv6(), rank(interface))) {
        Some(first) => Ok(choice(&seen, first.ip, Reason::FirstOther(inputs.web_net))),
        None => Err(nothing(&seen)),
    }
}

/// The order of preference among addresses with equal reasons. An address with a subnet comes before a virtual one,
/// because the engine may route a virtual address to any instance. Age and value then make the choice stable.
fn rank(interface: &Interface) -> (bool, bool, u32, &str, IpAddr) {
    (interface.is_virtual(), interface.is_loopback(), interface.index, &interface.name, interface.ip)
}

fn backend_host(seen: &[&Interface], backend: &BackendHost, inputs: &Inputs) -> Result<Choice, AddressError> {
    let best = |ip: &&IpAddr| (Reverse(inputs.web_net.contains(*ip)), ip.is_ipv6(), **ip);
    let Some(theirs) = backend.addresses.iter().min_by_key(best).copied() else {
        return Err(AddressError::Unresolved(backend.host.clone()));
    };
    // An orchestrator points the name at this instance only once it is healthy, so the name may still lead to its
    // predecessor: prefer our own address in the same subnet.
    let own = seen.iter().find(|interface| {
        inputs.wrapped && !interface.is_virtual() && !interface.is_loopback() && interface.reaches(theirs)
    });
    if own.is_none() && is_ambiguous(seen, &backend.addresses, theirs) {
        let (host, mut addresses) = (backend.host.clone(), backend.addresses.clone());
        addresses.sort();
        return Err(AddressError::Ambiguous { host, addresses });
    }
    Ok(match own {
        Some(own) => choice(seen, own.ip, Reason::OwnBesideBackendHost(backend.host.clone(), theirs)),
        None if theirs.is_loopback() && inputs.registry_local.is_some_and(|ip| ip.is_loopback()) => {
            choice(seen, theirs, Reason::RegistryOnLoopback)
        }
        None => choice(seen, theirs, Reason::BackendHost(backend.host.clone())),
    })
}

/// Whether `addresses` belong to more than one container, as far as addresses tell. A container has at most one address
/// of a family in each network, so two in one of our subnets are two containers. Addresses outside of our subnets tell
/// no networks apart, so there two of one family are two hosts; they matter only if `chosen` is one of them.
fn is_ambiguous(seen: &[&Interface], addresses: &[IpAddr], chosen: IpAddr) -> bool {
    let several_in_a_subnet =
        seen.iter().any(|interface| addresses.iter().filter(|ip| interface.reaches(**ip)).count() > 1);
    let is_outside = |ip: &IpAddr| !seen.iter().any(|interface| interface.reaches(*ip));
    let (v4, v6): (Vec<&IpAddr>, Vec<&IpAddr>) =
        addresses.iter().filter(|ip| is_outside(ip)).partition(|ip| ip.is_ipv4());
    several_in_a_subnet || (is_outside(&chosen) && (v4.len() > 1 || v6.len() > 1))
}

/// The addresses that the replicas of one service have in one network, so that none of them counts twice: those inside
/// WEB_NET_CIDR, else those in a subnet of ours, else those of one family. Sorted.
pub(super) fn same_network(interfaces: &[Interface], addresses: &[IpAddr], web_net: IpNet) -> Vec<IpAddr> {
    let mut seen: Vec<&Interface> = interfaces.iter().collect();
    seen.sort_by_key(|interface| rank(interface));
    let only = |belongs: &dyn Fn(&IpAddr) -> bool| {
        let found: BTreeSet<IpAddr> = addresses.iter().copied().filter(|ip| belongs(ip)).collect();
        Some(found.into_iter().collect::<Vec<_>>()).filter(|found| !found.is_empty())
    };
    only(&|ip| web_net.contains(ip))
        .or_else(|| seen.iter().find_map(|interface| only(&|ip| interface.reaches(*ip))))
        .or_else(|| only(&|ip| ip.is_ipv4()))
        .or_else(|| only(&|_| true))
        .unwrap_or_default()
}

fn choice(seen: &[&Interface], ip: IpAddr, reason: Reason) -> Choice {
    let interface = seen.iter().find(|interface| interface.ip == ip).map(|found| found.name.clone());
    let told = match &reason {
        Reason::WebNet(_, alike) => alike.as_slice(),
        _ => &[],
    };
    let others = seen.iter().filter(|other| other.ip != ip && other.leads_out());
    let others = others.map(|other| other.to_string()).filter(|text| !told.contains(text)).collect();
    Choice { ip, interface, reason, others }
}

fn nothing(seen: &[&Interface]) -> AddressError {
    let useless: Vec<String> =
        seen.iter().filter(|other| !other.is_loopback()).map(|other| other.to_string()).collect();
    if useless.is_empty() { AddressError::OnlyLoopback } else { AddressError::OnlyLinkLocal(useless) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `"1 lo 127.0.0.1/8"`: index, name, address.
    fn list(lines: &[&str]) -> Vec<Interface> {
        let parse = |line: &&str| {
            let [index, name, address] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let (ip, prefix_len) = address.split_once('/').unwrap();
            Interface {
                name: name.to_owned(),
                index: index.parse().unwrap(),
                ip: ip.parse().unwrap(),
                prefix_len: prefix_len.parse().unwrap(),
            }
        };
        lines.iter().map(parse).collect()
    }

    fn inputs() -> Inputs {
        Inputs {
            backend_host: None,
            web_net: "10.2.2.0/24".parse().unwrap(),
            registry_local: None,
            wrapped: false,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The log's line, which must not depend on the order of the list.
    fn line(lines: &[&str], inputs: &Inputs) -> String {
        let mut interfaces = list(lines);
        let line = choose(&interfaces, inputs).unwrap().to_string();
        interfaces.reverse();
        assert_eq!(choose(&interfaces, inputs).unwrap().to_string(), line);
        line
    }

    const LO: &str = "1 lo 127.0.0.1/8";

    #[test]
    fn of_two_networks_the_one_shared_with_the_proxy_is_advertised() {
        assert_eq!(
            line(&[LO, "12 eth0 172.18.0.3/16", "14 eth1 10.2.2.7/24"], &inputs()),
            "advertising 10.2.2.7 (eth1): inside WEB_NET_CIDR 10.2.2.0/24; also saw 172.18.0.3 (eth0)"
        );
    }

    #[test]
    fn in_a_swarm_neither_the_gateway_bridge_nor_the_ingress_network_is_taken() {
        let plain = [LO, "20 eth0 10.2.2.9/24", "22 eth1 172.19.0.4/16"];
        let published = [LO, "20 eth0 10.0.0.12/24", "24 eth1 10.2.2.9/24", "26 eth2 172.19.0.4/16"];
        // Even if the connection to the registry left through the bridge.
        let inputs = Inputs { registry_local: Some(ip("172.19.0.4")), ..inputs() };
        for interfaces in [&plain[..], &published] {
            assert_eq!(choose(&list(interfaces), &inputs).unwrap().ip, ip("10.2.2.9"));
        }
    }

    #[test]
    fn the_tasks_own_address_is_preferred_to_the_services_virtual_one() {
        let expected = "advertising 10.2.2.9 (eth0): inside WEB_NET_CIDR 10.2.2.0/24, as is 10.2.2.2 (";
        for virtual_address in ["20 eth0 10.2.2.2/32", "1 lo 10.2.2.2/32"] {
            let line = line(&[LO, virtual_address, "20 eth0 10.2.2.9/24"], &inputs());
            assert!(line.starts_with(expected) && line.ends_with(", virtual)"), "{line}");
        }
        // Where the engine gives nothing else, it will do.
        assert_eq!(choose(&list(&["3 eth0 10.2.2.2/32"]), &inputs()).unwrap().ip, ip("10.2.2.2"));
    }

    #[test]
    fn of_several_matches_the_oldest_interfaces_lowest_address_wins_and_the_others_are_named() {
        let interfaces =
            [LO, "9 eth1 10.2.2.3/24", "7 eth2 10.2.2.8/24", "7 eth2 10.2.2.5/24", "2 a 10.9.9.9/8"];
        assert_eq!(
            line(&interfaces, &inputs()),
            "advertising 10.2.2.5 (eth2): inside WEB_NET_CIDR 10.2.2.0/24, as are 10.2.2.8 (eth2), \
             10.2.2.3 (eth1); also saw 10.9.9.9 (a)"
        );
    }

    #[test]
    fn a_network_of_ipv6_is_as_good_as_any() {
        let inputs = Inputs { web_net: "fd00:2::/64".parse().unwrap(), ..inputs() };
        let interfaces = ["1 lo ::1/128", "5 eth0 10.2.2.7/24", "5 eth0 fe80::1/64", "5 eth0 fd00:2::7/64"];
        assert_eq!(
            line(&interfaces, &inputs),
            "advertising fd00:2::7 (eth0): inside WEB_NET_CIDR fd00:2::/64; also saw 10.2.2.7 (eth0)"
        );
    }

    #[test]
    fn outside_the_network_the_connection_to_the_registry_decides() {
        let inputs = Inputs { registry_local: Some(ip("::ffff:172.20.0.2")), ..inputs() };
        assert_eq!(
            line(&[LO, "5 eth0 172.18.0.3/16", "7 eth1 172.20.0.2/16"], &inputs),
            "advertising 172.20.0.2 (eth1): the registry was reached from it, and no interface is inside \
             WEB_NET_CIDR 10.2.2.0/24; also saw 172.18.0.3 (eth0)"
        );
    }

    #[test]
    fn the_last_resort_is_the_first_other_address_of_ipv4_and_doubtful() {
        let interfaces = [
            LO,
            "4 eth0 fd00::1/64",
            "4 eth0 169.254.1.1/16",
            "5 eth1 172.18.0.2/32",
            "7 eth2 172.20.0.2/16",
        ];
        let choice = choose(&list(&interfaces), &inputs()).unwrap();
        assert_eq!(choice.ip, ip("172.20.0.2"));
        assert!(choice.is_doubtful());
        assert!(choice.to_string().contains("set SIDECAR_WEB_NET_CIDR"), "{choice}");
        assert_eq!(choose(&list(&[LO, "4 eth0 fd00::1/64"]), &inputs()).unwrap().ip, ip("fd00::1"));
    }

    #[test]
    fn a_namespace_with_only_lo_is_named_as_what_it_is() {
        for interfaces in [&[LO, "1 lo ::1/128"][..], &[LO, "1 lo 10.3.3.2/32"], &[]] {
            let error = choose(&list(interfaces), &inputs()).unwrap_err();
            assert_eq!(error, AddressError::OnlyLoopback);
            assert!(error.to_string().contains("network_mode") && error.to_string().contains("BACKEND_HOST"));
        }
        let error = choose(&list(&[LO, "3 eth0 fe80::1/64"]), &inputs()).unwrap_err();
        assert_eq!(error.to_string(), "no address that the proxy could reach: there is only fe80::1 (eth0)");
    }

    #[test]
    fn a_registry_on_loopback_may_be_told_the_loopback_address() {
        let inputs = Inputs { registry_local: Some(ip("127.0.0.1")), ..inputs() };
        assert_eq!(
            line(&[LO, "2 eth0 192.168.1.5/24"], &inputs),
            "advertising 127.0.0.1 (lo): the registry is on this host's loopback interface; \
             also saw 192.168.1.5 (eth0)"
        );
        assert!(!choose(&list(&[LO]), &inputs).unwrap().is_doubtful());
    }

    #[test]
    fn backend_host_comes_before_everything() {
        let host = Host::Name("app".to_owned());
        let backend = |addresses: &[&str]| Inputs {
            backend_host: Some(BackendHost {
                host: host.clone(),
                addresses: addresses.iter().map(|text| ip(text)).collect(),
            }),
            ..inputs()
        };
        let interfaces = [LO, "5 eth0 10.2.2.7/24"];
        assert_eq!(
            line(&interfaces, &backend(&["fd00::9", "172.18.0.9", "10.2.2.9"])),
            "advertising 10.2.2.9: the address of BACKEND_HOST app; also saw 10.2.2.7 (eth0)"
        );
        let error = choose(&list(&interfaces), &backend(&[])).unwrap_err();
        assert_eq!(error, AddressError::Unresolved(host.clone()));
        let loopback = choose(&list(&interfaces), &backend(&["127.0.0.1"])).unwrap();
        assert!(loopback.is_doubtful() && loopback.to_string().contains("cannot reach it"), "{loopback}");
    }

    #[test]
    fn a_name_that_several_containers_have_is_an_error_that_names_them() {
        let with = |addresses: &[&str], wrapped| Inputs {
            backend_host: Some(BackendHost {
                host: Host::Name("app".to_owned()),
                addresses: addresses.iter().map(|text| ip(text)).collect(),
            }),
            wrapped,
            ..inputs()
        };
        let interfaces = list(&[
            LO,
            "1 lo ::1/128",
            "5 eth0 10.2.2.7/24",
            "5 eth0 10.2.2.2/32",
            "5 eth0 fd00:2::7/64",
            "7 eth1 172.18.0.7/16",
        ]);
        for ambiguous in [
            // Two in a subnet of ours: the one of the web, another one, one of IPv6, loopback.
            &["10.2.2.11", "10.2.2.9"][..],
            &["10.2.2.9", "172.18.0.8", "172.18.0.9"],
            &["10.2.2.9", "fd00:2::8", "fd00:2::9"],
            &["127.0.0.5", "127.0.0.6"],
            // Two where no subnet of ours has any, in one network or in two.
            &["192.168.1.1", "192.168.1.2"],
            &["192.168.1.1", "10.9.9.9"],
            &["192.168.1.1", "2001:db8::1", "2001:db8::2"],
        ] {
            let error = choose(&interfaces, &with(ambiguous, false)).unwrap_err();
            let mut addresses: Vec<IpAddr> = ambiguous.iter().map(|text| ip(text)).collect();
            addresses.sort();
            assert_eq!(error, AddressError::Ambiguous { host: Host::Name("app".to_owned()), addresses });
            for told in ambiguous.iter().chain(&["BACKEND_HOST app", "a name that no other container"]) {
                assert!(error.to_string().contains(told), "{error}");
            }
        }
        for (clear, chosen) in [
            // One container in two networks, with both families, and a host of both families elsewhere.
            (&["172.18.0.9", "10.2.2.9"][..], "10.2.2.9"),
            (&["10.2.2.9", "fd00:2::9"], "10.2.2.9"),
            (&["127.0.0.1", "::1"], "127.0.0.1"),
            (&["192.168.65.254", "fdc4:f303:9324::254"], "192.168.65.254"),
            // One in a subnet of ours beside others elsewhere.
            (&["10.2.2.9", "192.168.1.1", "192.168.1.2"], "10.2.2.9"),
        ] {
            assert_eq!(choose(&interfaces, &with(clear, false)).unwrap().ip, ip(chosen), "{clear:?}");
        }
        // Two inside WEB_NET_CIDR where we are not, although another one is beside us.
        let apart = list(&[LO, "7 eth1 172.18.0.7/16"]);
        let error = choose(&apart, &with(&["172.18.0.9", "10.2.2.8", "10.2.2.9"], false)).unwrap_err();
        assert!(matches!(error, AddressError::Ambiguous { .. }), "{error}");
        // Around a command our own address is the application's, whoever else has the name.
        assert_eq!(choose(&interfaces, &with(&["10.2.2.9", "10.2.2.11"], true)).unwrap().ip, ip("10.2.2.7"));
        assert!(choose(&interfaces, &with(&["192.168.1.1", "192.168.1.2"], true)).is_err());
    }

    #[test]
    fn wrapped_our_own_address_beside_backend_host_wins() {
        let inputs = Inputs {
            backend_host: Some(BackendHost {
                host: Host::Name("web".to_owned()),
                addresses: vec![ip("10.2.2.9")],
            }),
            wrapped: true,
            ..inputs()
        };
        assert_eq!(
            line(&[LO, "5 eth0 10.2.2.2/32", "5 eth0 10.2.2.7/24"], &inputs),
            "advertising 10.2.2.7 (eth0): our own in the subnet of BACKEND_HOST web (10.2.2.9); \
             also saw 10.2.2.2 (eth0, virtual)"
        );
        assert_eq!(choose(&list(&[LO, "5 eth0 10.3.0.7/24"]), &inputs).unwrap().ip, ip("10.2.2.9"));
    }

    #[test]
    fn replicas_count_once_each_however_many_networks_and_families_they_have() {
        let interfaces = list(&["1 lo 127.0.0.1/8", "2 eth0 10.9.0.2/24", "3 eth1 10.2.2.2/24"]);
        let net = "10.2.2.0/24".parse().unwrap();
        let of = |texts: &[&str]| texts.iter().map(|text| ip(text)).collect::<Vec<_>>();
        let found = |addresses: &[&str]| same_network(&interfaces, &of(addresses), net);
        assert_eq!(found(&["10.9.0.8", "10.2.2.9", "10.2.2.8", "fd00::8"]), of(&["10.2.2.8", "10.2.2.9"]));
        assert_eq!(found(&["172.16.0.4", "10.9.0.8", "10.9.0.9"]), of(&["10.9.0.8", "10.9.0.9"]));
        assert_eq!(found(&["fd00::8", "172.16.0.4"]), of(&["172.16.0.4"]));
        assert_eq!(found(&["fd00::9", "fd00::8"]), of(&["fd00::8", "fd00::9"]));
        assert_eq!(found(&[]), of(&[]));
    }
}
