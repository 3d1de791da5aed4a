//! A member of a claim: one session's backend, with the settings of its own route.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use crate::protocol::{BackendUrl, InstanceName, RouteOption};

/// Which member this is; the same in every snapshot of the table for as long as the member lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

/// (session, backend URL) within a claim (SEMANTICS section 1).
#[derive(Debug, Clone)]
pub struct Member {
    /// Which one.
    pub id: MemberId,
    /// Who registered it; for logs.
    pub instance: InstanceName,
    /// Where requests go.
    pub backend: BackendUrl,
    /// From which address its session was registered: what it may reach depends on it.
    pub peer: IpAddr,
    /// The settings of its own route.
    pub settings: Settings,
    /// Whether the registry lets requests to it: its checks pass, it is not suspended.
    pub usable: bool,
    /// What the data plane knows of it, shared by all cores and by every snapshot.
    pub load: Arc<MemberLoad>,
}

/// What a route's options say, with the defaults of PROTOCOL section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// To the response's headers; afterwards the same as an idle limit.
    pub timeout: Duration,
    /// Whether upgrades are passed on.
    pub websocket: bool,
    /// Whether the backend sees the client's Host, not its own.
    pub preserve_host: bool,
    /// Whether responses are compressed.
    pub compression: bool,
    /// HTTP/2 to the backend.
    pub http2: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            timeout: Duration::from_secs(60),
            websocket: true,
            preserve_host: true,
            compression: false,
            http2: false,
        }
    }
}

impl Settings {
    /// The same with `option` in force. Options that are no settings of a member change nothing.
    #[must_use]
    pub fn with(mut self, option: RouteOption) -> Self {
        match option {
            RouteOption::Timeout(timeout) => self.timeout = timeout.get(),
            RouteOption::Websocket(on) => self.websocket = on,
            RouteOption::PreserveHost(on) => self.preserve_host = on,
            RouteOption::Compression(on) => self.compression = on,
            RouteOption::Http2(on) => self.http2 = on,
            RouteOption::HealthCheckInterval(_)
            | RouteOption::HealthCheckTimeout(_)
            | RouteOption::Http3(_)
            | RouteOption::Hold(_) => {}
        }
        self
    }
}

/// What the data plane counts for a member.
#[derive(Debug, Default)]
pub struct MemberLoad {
    /// Requests that were sent to it and whose response is not over.
    pub in_flight: AtomicUsize,
}
