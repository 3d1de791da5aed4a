//! Tells backends who the client is (SEMANTICS section 9).
//!
//! The proxy always sets X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Real-IP and Forwarded. It believes
//! what a client sends in them only if the client is a trusted proxy (TRUSTED_PROXIES).

use std::cell::RefCell;
use std::fmt::Display;
use std::net::IpAddr;

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::forwarded_field;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(crate) const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const CF_CONNECTING_IP: HeaderName = HeaderName::from_static("cf-connecting-ip");

/// The headers that a client must not forge, in any spelling: FastCGI and WSGI cannot tell `X_Real_IP` from
/// `X-Real-IP`.
const PROTECTED: [HeaderName; 8] = [
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_HOST,
    X_FORWARDED_PORT,
    X_FORWARDED_PREFIX,
    X_REAL_IP,
    CF_CONNECTING_IP,
    FORWARDED,
];

/// How many addresses of a trusted proxy's X-Forwarded-For are read, from the last backwards.
const MAX_HOPS: usize = 32;

/// The forwarding headers of one client connection. Its requests share the values, which are made once.
pub(crate) struct Forwarding {
    peer: IpAddr,
    peer_text: HeaderValue,
    proto: HeaderValue,
    trusted_proxies: Option<Vec<IpNet>>,
    /// The last Host and the Forwarded element made for it, because most clients ask for one host only.
    last_element: RefCell<Option<(HeaderValue, HeaderValue)>>,
}

impl Forwarding {
    /// `is_tls`: whether the client's connection to the proxy uses TLS.
    pub(crate) fn new(peer: IpAddr, trusted_proxies: &[IpNet], is_tls: bool) -> Self {
        let peer = peer.to_canonical();
        let trusted = is_trusted(peer, trusted_proxies);
        Forwarding {
            peer,
            peer_text: text(peer),
            proto: HeaderValue::from_static(if is_tls { "https" } else { "http" }),
            trusted_proxies: trusted.then(|| trusted_proxies.to_vec()),
            last_element: RefCell::new(None),
        }
    }

    /// Whether a trusted proxy reports that its client uses TLS.
    pub(crate) fn came_over_tls(&self, headers: &HeaderMap) -> bool {
        self.trusted_proxies.is_some() && Reported::by(headers).proto == Some("https")
    }

    /// The client's address: the peer's, or the one that trusted proxies report.
    pub(crate) fn client(&self, headers: &HeaderMap) -> IpAddr {
        match &self.trusted_proxies {
            None => self.peer,
            Some(trusted) => self.client_behind(&Reported::by(headers).chain, headers, trusted),
        }
    }

    fn client_behind(&self, chain: &str, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
        client_of(chain, trusted).or_else(|| single_ip(headers, &CF_CONNECTING_IP)).unwrap_or(self.peer)
    }

    /// The peer's address, unless the peer is a trusted proxy.
    pub(crate) fn direct_peer(&self) -> Option<IpAddr> {
        self.trusted_proxies.is_none().then_some(self.peer)
    }

    /// Replaces the client's forwarding headers by the proxy's. `host` is the host that the request is for.
    pub(crate) fn apply(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        strip_other_spellings(headers);
        match &self.trusted_proxies {
            None => self.set(headers, host),
            Some(trusted) => self.extend(headers, host, trusted),
        }
    }

    fn set(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        // Seldom present: one pass over the names is cheaper than two lookups.
        let seldom = [CF_CONNECTING_IP, X_FORWARDED_PORT, X_FORWARDED_PREFIX];
        if headers.keys().any(|name| seldom.contains(name)) {
            seldom.iter().for_each(|name| drop(headers.remove(name)));
        }
        headers.insert(X_FORWARDED_FOR, self.peer_text.clone());
        headers.insert(X_REAL_IP, self.peer_text.clone());
        headers.insert(X_FORWARDED_PROTO, self.proto.clone());
        headers.insert(X_FORWARDED_HOST, host.clone());
        headers.insert(FORWARDED, self.element(host));
    }

    fn element(&self, host: &HeaderValue) -> HeaderValue {
        let mut last = self.last_element.borrow_mut();
        if let Some((last_host, element)) = &*last
            && last_host == host
        {
            return element.clone();
        }
        let element = element(self.peer, host, &self.proto);
        *last = Some((host.clone(), element.clone()));
        element
    }

    /// Continues what a trusted proxy sent.
    fn extend(&self, headers: &mut HeaderMap, host: &HeaderValue, trusted: &[IpNet]) {
        let Reported { chain, proto, host: reported_host } = Reported::by(headers);
        let client = self.client_behind(&chain, headers, trusted);
        let chain = if chain.is_empty() && client != self.peer { client.to_string() } else { chain };
        let for_value =
            if chain.is_empty() { self.peer.to_string() } else { format!("{chain}, {}", self.peer) };
        let proto = proto.map_or_else(|| self.proto.clone(), HeaderValue::from_static);
        let host = reported_host.unwrap_or_else(|| host.clone());
        let ours = element(client, &host, &proto);
        let forwarded = match joined(headers, &FORWARDED) {
            theirs if theirs.is_empty() => Some(ours),
            theirs => {
                let own = element(self.peer, &host, &proto);
                HeaderValue::from_str(&format!("{theirs}, {}", own.to_str().unwrap_or_default())).ok()
            }
        };
        headers
            .insert(X_FORWARDED_FOR, HeaderValue::from_str(&for_value).unwrap_or_else(|_| text(self.peer)));
        headers.insert(X_REAL_IP, text(client));
        headers.insert(X_FORWARDED_PROTO, proto);
        headers.insert(X_FORWARDED_HOST, host);
        if let Some(forwarded) = forwarded {
            headers.insert(FORWARDED, forwarded);
        }
    }
}

/// What a trusted proxy says of the request that it got.
///
/// X-Forwarded-* and CF-Connecting-IP go before Forwarded: a proxy that writes one kind passes on the other as its client
/// sent it, so only where there is none of the first does the second count.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reported {
    /// The addresses of the proxies and the client, the client's first.
    chain: String,
    /// `http` or `https`.
    proto: Option<&'static str>,
    host: Option<HeaderValue>,
}

impl Reported {
    fn by(headers: &HeaderMap) -> Self {
        let is_other =
            |name: &HeaderName| name.as_str().starts_with("x-forwarded-") || *name == CF_CONNECTING_IP;
        if headers.keys().any(is_other) {
            return Reported {
                chain: joined(headers, &X_FORWARDED_FOR),
                proto: headers.get(X_FORWARDED_PROTO).and_then(|proto| scheme(first(proto.to_str().ok()?))),
                host: headers.get(X_FORWARDED_HOST).cloned(),
            };
        }
        let lines = headers.get_all(FORWARDED).iter().map(|line| line.to_str().unwrap_or("\""));
        let elements = forwarded_field::elements(lines).unwrap_or_default();
        let Some(client) = elements.first() else { return Reported::default() };
        // X-Forwarded-For has bare addresses. Whatever else is in `for` must not become an element of its own there.
        let address = |node: &Option<String>| {
            node.as_deref().and_then(hop_ip).map_or_else(|| "unknown".to_owned(), |ip| ip.to_string())
        };
        let has_addresses = elements.iter().any(|element| element.node.is_some());
        let nodes: Vec<String> = elements.iter().map(|element| address(&element.node)).collect();
        Reported {
            chain: if has_addresses { nodes.join(", ") } else { String::new() },
            proto: client.proto.as_deref().and_then(scheme),
            host: client.host.as_deref().and_then(|host| HeaderValue::from_str(host).ok()),
        }
    }
}

/// The first element of a list. Each proxy appends what its client used, so it is the client's.
fn first(list: &str) -> &str {
    list.split(',').next().unwrap_or_default()
}

/// The scheme that stands for how the client came. Websockets use the same two transports under other names.
fn scheme(proto: &str) -> Option<&'static str> {
    let is = |name: &str| proto.trim().eq_ignore_ascii_case(name);
    if is("https") || is("wss") {
        Some("https")
    } else if is("http") || is("ws") {
        Some("http")
    } else {
        None
    }
}

fn is_trusted(ip: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&ip))
}

/// The last address in `chain` that is not a trusted proxy; the first one if all are.
fn client_of(chain: &str, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut client = None;
    for hop in chain.rsplit(',').take(MAX_HOPS) {
        // What stands before an unreadable address may be forged.
        let Some(ip) = hop_ip(hop.trim()) else { break };
        client = Some(ip);
        if !is_trusted(ip, trusted) {
            break;
        }
    }
    client
}

/// Parses an address as proxies write it: bare, in brackets, or with a port.
fn hop_ip(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let ip: Option<IpAddr> = bare.parse().ok();
    ip.or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|addr| addr.ip())).map(|ip| ip.to_canonical())
}

fn single_ip(headers: &HeaderMap, name: &HeaderName) -> Option<IpAddr> {
    hop_ip(headers.get(name)?.to_str().ok()?.trim())
}

/// Joins the lines of a header into one list.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let lines: Vec<&str> = headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
    lines.join(", ")
}

fn text(value: impl Display) -> HeaderValue {
    HeaderValue::from_str(&value.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// One element of Forwarded (RFC 7239). A host that is not a token is quoted.
fn element(ip: IpAddr, host: &HeaderValue, proto: &HeaderValue) -> HeaderValue {
    let node = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("\"[{ip}]\""),
    };
    let (host, proto) = (host.to_str().unwrap_or_default(), proto.to_str().unwrap_or_default());
    let token = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let quote = if token { "" } else { "\"" };
    text(format_args!("for={node};host={quote}{}{quote};proto={proto}", host.replace(['"', '\\'], "")))
}

/// Whether the proxy alone tells backends what this header says. `name` has `-` for `_`.
pub(super) fn is_protected(name: &str) -> bool {
    PROTECTED.iter().any(|protected| *protected == name)
}

/// Removes headers that an application behind FastCGI or WSGI would read as one of [`PROTECTED`].
fn strip_other_spellings(headers: &mut HeaderMap) {
    let is_disguised = |name: &HeaderName| {
        let name = name.as_str();
        matches!(name.len(), 9 | 15..=17) && name.contains('_') && is_protected(&name.replace('_', "-"))
    };
    // Usually empty, and an empty Vec does not allocate.
    let disguised: Vec<HeaderName> = headers.keys().filter(|name| is_disguised(name)).cloned().collect();
    for name in disguised {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(peer: &str, trusted: &[&str], sent: &[(&'static str, &str)]) -> HeaderMap {
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let forwarding = Forwarding::new(peer.parse().unwrap(), &trusted, false);
        forwarding.apply(&mut headers, &HeaderValue::from_static("example.com"));
        headers
    }

    fn expect(headers: &HeaderMap, expected: &[(&str, &str)]) {
        for (name, value) in expected {
            let found: Vec<_> = headers.get_all(*name).iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(found, [*value], "{name}");
        }
    }

    #[test]
    fn forwarding_headers_of_an_untrusted_client_are_replaced() {
        let headers = forward(
            "203.0.113.9",
            &["10.0.0.0/8"],
            &[
                ("x-forwarded-for", "1.1.1.1"),
                ("x-forwarded-for", "2.2.2.2"),
                ("x-real-ip", "1.1.1.1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil.example"),
                ("x-forwarded-port", "443"),
                ("forwarded", "for=1.1.1.1"),
                ("cf-connecting-ip", "1.1.1.1"),
                ("x_forwarded_for", "1.1.1.1"),
                ("x-real_ip", "1.1.1.1"),
                ("x_kept", "1"),
            ],
        );
        expect(
            &headers,
            &[
                ("x-forwarded-for", "203.0.113.9"),
                ("x-real-ip", "203.0.113.9"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "example.com"),
                ("forwarded", "for=203.0.113.9;host=example.com;proto=http"),
                ("x_kept", "1"),
            ],
        );
        assert_eq!(headers.len(), 6);
    }

    #[test]
    fn the_chain_of_a_trusted_proxy_is_extended() {
        let headers = forward(
            "10.2.2.2",
            &["10.0.0.0/8", "192.168.0.0/16"],
            &[
                ("x-forwarded-for", "6.6.6.6, 203.0.113.9"),
                ("x-forwarded-for", "192.168.1.1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "shop.example"),
                ("cf-connecting-ip", "203.0.113.9"),
            ],
        );
        expect(
            &headers,
            &[
                ("x-forwarded-for", "6.6.6.6, 203.0.113.9, 192.168.1.1, 10.2.2.2"),
                ("x-real-ip", "203.0.113.9"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "shop.example"),
                ("forwarded", "for=203.0.113.9;host=shop.example;proto=https"),
                ("cf-connecting-ip", "203.0.113.9"),
            ],
        );
    }

    #[test]
    fn cf_connecting_ip_of_a_trusted_proxy_is_used() {
        let headers = forward("10.2.2.2", &["10.0.0.0/8"], &[("cf-connecting-ip", "2001:db8::1")]);
        expect(
            &headers,
            &[
                ("x-forwarded-for", "2001:db8::1, 10.2.2.2"),
                ("x-real-ip", "2001:db8::1"),
                ("forwarded", "for=\"[2001:db8::1]\";host=example.com;proto=http"),
            ],
        );
        let headers = forward("10.2.2.2", &["10.0.0.0/8"], &[("forwarded", "for=9.9.9.9")]);
        expect(
            &headers,
            &[
                ("x-forwarded-for", "9.9.9.9, 10.2.2.2"),
                ("forwarded", "for=9.9.9.9, for=10.2.2.2;host=example.com;proto=http"),
            ],
        );
    }

    #[test]
    fn addresses_before_an_unreadable_one_are_ignored() {
        for (chain, client) in [
            ("1.1.1.1, junk, 10.9.9.9", "10.9.9.9"),
            ("junk", "10.2.2.2"),
            ("10.1.1.1, 10.1.1.2", "10.1.1.1"),
            ("203.0.113.9:4711", "203.0.113.9"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
        ] {
            let headers = forward("10.2.2.2", &["10.0.0.0/8"], &[("x-forwarded-for", chain)]);
            expect(&headers, &[("x-real-ip", client)]);
        }
    }

    #[test]
    fn an_ipv4_mapped_peer_is_reported_as_ipv4() {
        expect(&forward("::ffff:203.0.113.9", &[], &[]), &[("x-real-ip", "203.0.113.9")]);
    }

    #[test]
    fn each_host_on_a_connection_gets_its_own_element() {
        let forwarding = Forwarding::new("10.2.2.2".parse().unwrap(), &[], false);
        for (host, line) in [
            ("a.example", "for=10.2.2.2;host=a.example;proto=http"),
            ("a.example", "for=10.2.2.2;host=a.example;proto=http"),
            ("b.example:81", "for=10.2.2.2;host=\"b.example:81\";proto=http"),
        ] {
            let mut headers = HeaderMap::new();
            forwarding.apply(&mut headers, &HeaderValue::from_static(host));
            expect(&headers, &[("forwarded", line), ("x-forwarded-host", host)]);
        }
    }

    #[test]
    fn the_scheme_that_a_trusted_proxy_reports_is_read_in_any_spelling() {
        let proto = |sent: &[(&'static str, &str)]| {
            let headers = forward("10.0.0.2", &["10.0.0.0/8"], sent);
            headers.get(X_FORWARDED_PROTO).unwrap().to_str().unwrap().to_owned()
        };
        for https in ["https", "HTTPS", " Https", "wss", "WSS", "https,http", "https , https"] {
            assert_eq!(proto(&[("x-forwarded-proto", https)]), "https", "{https}");
        }
        for http in ["http", "HTTP", "ws", "http,https", "", "h2", ",https", "https;x"] {
            assert_eq!(proto(&[("x-forwarded-proto", http)]), "http", "{http}");
        }
        let lines = [("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")];
        assert_eq!(proto(&lines), "https", "lines are elements too");
    }

    #[test]
    fn forwarded_counts_where_there_is_no_other_header() {
        let trusted = ["10.0.0.0/8"];
        let sent =
            [("forwarded", "for=\"192.0.2.1:4711\";proto=HTTPS;host=shop.example, for=10.0.0.9;proto=http")];
        let headers = forward("10.0.0.2", &trusted, &sent);
        expect(
            &headers,
            &[
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "shop.example"),
                ("x-forwarded-for", "192.0.2.1, 10.0.0.9, 10.0.0.2"),
                ("x-real-ip", "192.0.2.1"),
            ],
        );
        let headers = forward("10.0.0.2", &trusted, &[("forwarded", "proto=https")]);
        expect(&headers, &[("x-forwarded-proto", "https"), ("x-forwarded-for", "10.0.0.2")]);
        for other in ["x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "cf-connecting-ip"] {
            let headers =
                forward("10.0.0.2", &trusted, &[("forwarded", "proto=https"), (other, "192.0.2.7")]);
            expect(&headers, &[("x-forwarded-proto", "http")]);
        }
        let headers = forward("10.0.0.2", &trusted, &[("forwarded", "proto=\"https")]);
        expect(&headers, &[("x-forwarded-proto", "http")]);
        let inner = [("forwarded", "for=\"192.0.2.1, 192.0.2.2\", for=\"[2001:db8::1]:47\"")];
        let headers = forward("10.0.0.2", &trusted, &inner);
        expect(
            &headers,
            &[("x-forwarded-for", "unknown, 2001:db8::1, 10.0.0.2"), ("x-real-ip", "2001:db8::1")],
        );
        let headers = forward("192.0.2.9", &trusted, &sent);
        expect(&headers, &[("x-forwarded-proto", "http"), ("x-forwarded-for", "192.0.2.9")]);
    }

    #[test]
    fn the_redirect_to_https_reads_the_same_headers() {
        let came = |peer: &str, name: &'static str, value: &'static str| {
            let headers =
                HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
            Forwarding::new(peer.parse().unwrap(), &["10.0.0.0/8".parse().unwrap()], false)
                .came_over_tls(&headers)
        };
        assert!(came("10.0.0.2", "x-forwarded-proto", "WSS, http"));
        assert!(came("10.0.0.2", "forwarded", "for=x;proto=https"));
        assert!(!came("10.0.0.2", "forwarded", "proto=http, proto=https"));
        assert!(!came("192.0.2.9", "x-forwarded-proto", "https"));
    }
}
