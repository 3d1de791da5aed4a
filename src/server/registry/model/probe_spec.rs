//! The probes of backends and maintenance pages.

use std::net::IpAddr;
use std::time::Duration;

use registry_client::protocol::{BackendUrl, Domain, Host};

use crate::server::routing::{Probe, ProbeKind};

use super::plan::HealthQuestion;

/// The interval while the answer decides whether a member serves: it joins, or its session is lost (SEMANTICS
/// section 4).
const QUICK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a backend without a check has to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// A backend's address, if it is given as one.
pub(crate) fn address_of(backend: &BackendUrl) -> Option<IpAddr> {
    match backend.host() {
        Host::Ip(ip) => Some(ip.to_canonical()),
        Host::Name(_) => None,
    }
}

/// The probe that a maintenance request waits for: does a page or a backend answer with a status below 500?
pub(crate) fn page_probe(url: &BackendUrl, peer: IpAddr, host: Option<&Domain>) -> Probe {
    // A page that is a file has nothing below it.
    let (backend, path) = if url.is_file() { (url.at_root(), url.path()) } else { (url.clone(), "/") };
    let kind = match path.parse() {
        Ok(path) => ProbeKind::Get { path, host: host.cloned(), statuses: None },
        Err(_) => ProbeKind::Connect,
    };
    Probe { backend, peer, kind, interval: QUICK_INTERVAL, timeout: CHECK_TIMEOUT }
}

/// The probe of a member: its check, or whether its backend accepts a connection. `quick`: the answer decides whether
/// it serves.
pub(crate) fn probe(
    backend: &BackendUrl,
    peer: IpAddr,
    check: Option<&HealthQuestion>,
    quick: bool,
) -> Probe {
    let (kind, interval, timeout) = match check {
        None => (ProbeKind::Connect, QUICK_INTERVAL, CONNECT_TIMEOUT),
        Some(check) => {
            let HealthQuestion { path, host, statuses, .. } = check.clone();
            let kind = ProbeKind::Get { path, host, statuses };
            let interval = if quick { check.interval.min(QUICK_INTERVAL) } else { check.interval };
            (kind, interval, check.timeout)
        }
    };
    Probe { backend: backend.clone(), peer, kind, interval, timeout }
}
