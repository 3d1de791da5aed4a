//! Decides which addresses a backend, a maintenance page or a health check may have (SEMANTICS section 9,
//! BACKEND_ALLOW).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Which addresses backends may have. It is applied to the resolved address at registration and at each connect.
#[derive(Debug, Clone, Default)]
pub struct BackendPolicy {
    /// BACKEND_ALLOW; `None`: the peer's own address and private ranges, and loopback for loopback peers.
    pub allow: Option<Vec<IpNet>>,
    /// The server's own listeners, which are never a backend. An unspecified address (`0.0.0.0:80`) means every address
    /// of this host. [`BackendPolicy::is_ourselves`] finds those that are not loopback when a connection exists.
    pub own: Vec<SocketAddr>,
    /// Several servers have the same table, on several machines: loopback is a backend only where
    /// [`BackendPolicy::allow`] says so, because it is another machine for each of them.
    pub is_shared: bool,
}

impl BackendPolicy {
    /// Whether a registration from `peer` may have `target` as a backend.
    ///
    /// Whatever [`BackendPolicy::allow`] says, link-local, unspecified and multicast addresses, those of clouds' metadata
    /// and the server's own listeners are not permitted, and loopback only for loopback peers. IPv4-mapped IPv6 addresses count as IPv4.
    pub fn permits(&self, peer: IpAddr, target: SocketAddr) -> bool {
        let (peer, ip) = (peer.to_canonical(), target.ip().to_canonical());
        if is_never_a_backend(ip) || self.is_own_listener(ip, target.port()) {
            return false;
        }
        if ip.is_loopback() && !peer.is_loopback() {
            return false;
        }
        match &self.allow {
            Some(nets) => nets.iter().any(|net| net.contains(&ip)),
            None if ip.is_loopback() => !self.is_shared,
            None => ip == peer || is_private(ip),
        }
    }

    /// Whether a connection from `local` to `target` has reached one of the server's own listeners: only a connection
    /// to an address of this host has the same address at both ends.
    pub fn is_ourselves(&self, local: IpAddr, target: SocketAddr) -> bool {
        let same_host = local.to_canonical() == target.ip().to_canonical();
        same_host && self.own.iter().any(|own| own.ip().is_unspecified() && own.port() == target.port())
    }

    fn is_own_listener(&self, ip: IpAddr, port: u16) -> bool {
        self.own.iter().any(|own| {
            let own_ip = own.ip().to_canonical();
            own.port() == port && (own_ip == ip || (own_ip.is_unspecified() && ip.is_loopback()))
        })
    }
}

/// Where clouds serve their machines' credentials, beyond the link-local 169.254.169.254. Some are in private ranges.
const METADATA: [IpNet; 8] = [
    // Alibaba Cloud
    v4_net([100, 100, 100, 200], 32),
    // Oracle Cloud, before it took 169.254.169.254 too
    v4_net([192, 0, 0, 192], 32),
    // Azure's agent
    v4_net([168, 63, 129, 16], 32),
    // AWS: metadata, time, names
    v6_net([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32),
    // Google Cloud
    v6_net([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
    // Oracle Cloud
    v6_net([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
    // Scaleway
    v6_net([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
    // Akamai
    v6_net([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 0x1], 128),
];

const fn v4_net([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6_net([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix))
}

fn is_never_a_backend(ip: IpAddr) -> bool {
    let ip = translated(ip);
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip == Ipv4Addr::BROADCAST,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let is_metadata = METADATA.iter().any(|net| net.contains(&ip));
    link_local || is_metadata || ip.is_unspecified() || ip.is_multicast()
}

/// The IPv4 address that a NAT64 gateway makes of an IPv6 address of the well-known prefix (RFC 6052).
fn translated(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) if v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        _ => ip,
    }
}

/// Whether an address belongs to a private network.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => Ipv6Addr::is_unique_local(&ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: Option<&[&str]>, own: &[&str]) -> BackendPolicy {
        BackendPolicy {
            allow: allow.map(|nets| nets.iter().map(|net| net.parse().unwrap()).collect()),
            own: own.iter().map(|addr| addr.parse().unwrap()).collect(),
            is_shared: false,
        }
    }

    fn check(policy: &BackendPolicy, table: &[(&str, &str, bool)]) {
        for (peer, target, permitted) in table {
            let verdict = policy.permits(peer.parse().unwrap(), target.parse().unwrap());
            assert_eq!(verdict, *permitted, "{peer} registers {target} under {policy:?}");
        }
    }

    #[test]
    fn by_default_a_peer_may_name_itself_and_private_ranges() {
        check(
            &policy(None, &[]),
            &[
                ("10.2.2.7", "10.2.2.7:8080", true),
                ("10.2.2.7", "10.2.2.8:8080", true),
                ("10.2.2.7", "172.16.0.1:80", true),
                ("10.2.2.7", "172.32.0.1:80", false),
                ("10.2.2.7", "192.168.1.1:80", true),
                ("10.2.2.7", "[fd00::1]:80", true),
                ("10.2.2.7", "93.184.216.34:80", false),
                ("93.184.216.34", "93.184.216.34:80", true),
                ("93.184.216.34", "93.184.216.35:80", false),
                ("10.2.2.7", "[2001:db8::1]:80", false),
                ("2001:db8::1", "[2001:db8::1]:80", true),
            ],
        );
    }

    #[test]
    fn loopback_is_no_backend_of_several_servers_unless_it_is_allowed() {
        let shared = |allow| BackendPolicy { is_shared: true, ..policy(allow, &[]) };
        let loopback = |permitted| [("127.0.0.1", "127.0.0.1:80", permitted), ("::1", "[::1]:80", permitted)];
        check(&shared(None), &loopback(false));
        check(&shared(None), &[("10.2.2.7", "10.2.2.7:8080", true)]);
        check(&shared(Some(&["127.0.0.0/8", "::1/128"])), &loopback(true));
    }

    #[test]
    fn loopback_is_for_loopback_peers_even_where_it_is_allowed() {
        for policy in [policy(None, &[]), policy(Some(&["0.0.0.0/0", "::/0"]), &[])] {
            check(
                &policy,
                &[
                    ("127.0.0.1", "127.0.0.1:8080", true),
                    ("127.0.0.1", "127.0.0.9:8080", true),
                    ("::1", "127.0.0.1:8080", true),
                    ("10.2.2.7", "127.0.0.1:8081", false),
                    ("10.2.2.7", "[::1]:8081", false),
                ],
            );
        }
    }

    #[test]
    fn backend_allow_replaces_the_default() {
        check(
            &policy(Some(&["10.2.2.0/24", "2001:db8::/32"]), &[]),
            &[
                ("10.2.2.7", "10.2.2.9:80", true),
                ("10.2.2.7", "10.2.3.9:80", false),
                ("10.2.3.9", "10.2.3.9:80", false),
                ("127.0.0.1", "127.0.0.1:80", false),
                ("10.2.2.7", "[2001:db8::5]:80", true),
            ],
        );
    }

    #[test]
    fn link_local_multicast_and_unspecified_addresses_are_never_backends() {
        for policy in [policy(None, &[]), policy(Some(&["0.0.0.0/0", "::/0"]), &[])] {
            check(
                &policy,
                &[
                    ("10.2.2.7", "169.254.169.254:80", false),
                    ("169.254.1.1", "169.254.1.1:80", false),
                    ("fe80::1", "[fe80::1]:80", false),
                    ("127.0.0.1", "0.0.0.0:80", false),
                    ("127.0.0.1", "[::]:80", false),
                    ("10.2.2.7", "224.0.0.1:80", false),
                    ("10.2.2.7", "255.255.255.255:80", false),
                    ("10.2.2.7", "[fd00:ec2::254]:80", false),
                    ("10.2.2.7", "[fd00:ec2::23]:80", false),
                    ("10.2.2.7", "[fd20:ce::254]:80", false),
                    ("10.2.2.7", "[fd00:c1::a9fe:a9fe]:80", false),
                    ("fd00:42::42", "[fd00:42::42]:80", false),
                    ("10.2.2.7", "[fd00:a9fe:a9fe::1]:80", false),
                    ("10.2.2.7", "100.100.100.200:80", false),
                    ("10.2.2.7", "168.63.129.16:80", false),
                    ("192.0.0.192", "192.0.0.192:80", false),
                    ("10.2.2.7", "[64:ff9b::a9fe:a9fe]:80", false),
                    ("10.2.2.7", "[64:ff9b::6464:64c8]:80", false),
                    ("10.2.2.7", "[fe80::a9fe:a9fe]:80", false),
                    ("10.2.2.7", "[fd00:ec3::254]:80", true),
                ],
            );
        }
    }

    #[test]
    fn our_own_listeners_are_never_backends() {
        check(
            &policy(None, &["0.0.0.0:80", "10.2.2.2:81"]),
            &[
                ("127.0.0.1", "127.0.0.1:80", false),
                ("127.0.0.1", "127.3.2.1:80", false),
                ("127.0.0.1", "127.0.0.1:8080", true),
                ("10.2.2.7", "10.2.2.2:81", false),
                ("10.2.2.7", "10.2.2.7:81", true),
                ("10.2.2.7", "10.2.2.7:80", true),
            ],
        );
    }

    #[test]
    fn a_connection_to_a_listener_on_every_address_is_recognised() {
        let policy = policy(None, &["0.0.0.0:80", "[::]:443"]);
        let local: IpAddr = "10.2.2.2".parse().unwrap();
        assert!(policy.is_ourselves(local, "10.2.2.2:80".parse().unwrap()));
        assert!(policy.is_ourselves(local, "[::ffff:10.2.2.2]:443".parse().unwrap()));
        assert!(!policy.is_ourselves(local, "10.2.2.2:8080".parse().unwrap()));
        assert!(!policy.is_ourselves(local, "10.2.2.7:80".parse().unwrap()));
    }

    #[test]
    fn an_ipv4_mapped_address_counts_as_ipv4() {
        check(
            &policy(Some(&["10.0.0.0/8"]), &["[::]:80"]),
            &[
                ("::ffff:10.2.2.7", "10.2.2.7:8080", true),
                ("10.2.2.7", "[::ffff:10.2.2.7]:8080", true),
                ("10.2.2.7", "[::ffff:127.0.0.1]:8080", false),
                ("10.2.2.7", "[::ffff:169.254.169.254]:8080", false),
                ("127.0.0.1", "[::ffff:127.0.0.1]:80", false),
            ],
        );
    }
}
