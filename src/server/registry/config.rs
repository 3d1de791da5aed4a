//! What an operator can configure, and the limits on everything that a peer can fill.

use std::time::Duration;

use crate::server::registry::model::{ClaimPolicy, Token};
use crate::server::routing::BackendPolicy;

/// How a registry behaves.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// How long a session outlives its connection (PROTOCOL section 2, SESSION_GRACE).
    pub grace: Duration,
    /// How long a session that never applied anything outlives its connection, if that is shorter than the grace.
    pub unapplied_grace: Duration,
    /// How long a claim that has lost its last usable member lets requests wait (SEMANTICS section 6, HOLD).
    pub hold: Duration,
    /// How long staged changes wait for an apply (PROTOCOL section 4, STAGE_TTL).
    pub stage_ttl: Duration,
    /// How long a connection may go without one valid command (PROTOCOL section 1).
    pub silent_connection: Duration,
    /// How long a command may wait for the store or a backend (PROTOCOL section 1).
    pub longest_wait: Duration,
    /// What backends may be reached (SEMANTICS section 9).
    pub backends: BackendPolicy,
    /// The id that servers with one state share. Random for each start unless the operator gives one.
    pub cluster_id: String,
    /// The token that every registration must give (SEMANTICS section 9, REGISTRY_TOKEN); `None`: none.
    pub token: Option<Token>,
    /// Which service may claim which domains (SEMANTICS section 9, REGISTRY_POLICY); `None`: any service any.
    pub policy: Option<ClaimPolicy>,
    /// Whether each host belongs as a whole to the first service that claims a part of it (HOSTS=first).
    pub exclusive_hosts: bool,
    /// Which boot of which machine this is; empty where that is not known (SEMANTICS section 4).
    pub boot_id: String,
    /// How much a peer may fill.
    pub limits: Limits,
}

/// How much a peer may fill. What exceeds a limit is refused with the error that is named here, and changes nothing.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections (MAX_REGISTRY_CONNECTIONS): `ERROR|too many connections`, then EOF.
    pub connections: usize,
    /// Open connections from one address (MAX_CONNECTIONS_PER_ADDRESS): `ERROR|too many connections from this
    /// address`, then EOF. Loopback is exempt: a process there needs no connection to do harm.
    pub connections_per_address: usize,
    /// Sessions that live or still serve (MAX_SESSIONS): `ERROR|too many sessions`. A session that replaces another may
    /// register until there are twice as many.
    pub sessions: usize,
    /// Of these, from one address (MAX_SESSIONS_PER_ADDRESS): `ERROR|too many sessions from this address`. Loopback is exempt.
    /// A session that replaces another may register until there are twice as many.
    pub sessions_per_address: usize,
    /// Routes of a session, applied and staged (MAX_ROUTES_PER_SESSION): `ERROR|too many routes`.
    pub routes: usize,
    /// Domains of a route: `ERROR|too many domains`.
    pub domains: usize,
    /// Bytes of a session's staged changes (MAX_STAGED_BYTES): `ERROR|too many staged changes`.
    pub staged_bytes: usize,
    /// The same for all sessions from one address but loopback: the same error.
    pub staged_bytes_per_address: usize,
    /// The same for all sessions: the same error.
    pub staged_bytes_in_all: usize,
    /// Response headers of a route, or of a session's defaults (MAX_HEADERS_PER_ROUTE): `ERROR|too many headers`.
    pub headers: usize,
    /// Bytes of those headers, names and values: the same error.
    pub header_bytes: usize,
    /// Bytes of a session's metadata: `ERROR|metadata too large`.
    pub metadata_bytes: usize,
    /// Commands of a connection that wait behind one without an answer. The listener stops reading before there are as
    /// many; a connection with more is closed.
    pub queue: usize,
    /// Replaced session ids that are remembered for a session. Older ones become unknown.
    pub predecessors: usize,
    /// Addresses that are remembered because two sessions were connected from there at once (SEMANTICS section 4).
    pub shared_addresses: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 20_000,
            connections_per_address: 1_000,
            sessions: 20_000,
            sessions_per_address: 256,
            routes: 10_000,
            domains: 256,
            staged_bytes: 8 * 1024 * 1024,
            staged_bytes_per_address: 16 * 1024 * 1024,
            staged_bytes_in_all: 64 * 1024 * 1024,
            headers: 64,
            header_bytes: 8 * 1024,
            metadata_bytes: 8 * 1024,
            queue: 256,
            predecessors: 64,
            shared_addresses: 65_536,
        }
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        RegistryConfig {
            grace: Duration::from_secs(300),
            unapplied_grace: Duration::from_secs(60),
            hold: Duration::from_secs(30),
            stage_ttl: Duration::from_secs(1800),
            silent_connection: Duration::from_secs(60),
            longest_wait: Duration::from_secs(5),
            backends: BackendPolicy::default(),
            cluster_id: String::new(),
            token: None,
            policy: None,
            exclusive_hosts: false,
            boot_id: String::new(),
            limits: Limits::default(),
        }
    }
}
