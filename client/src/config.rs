//! How a client reaches its registry.

use std::time::Duration;

use super::connect::Endpoint;

/// How to reach a registry, and how patiently.
///
/// ```
/// use std::time::Duration;
/// use registry_client::ClientConfig;
///
/// # fn example() -> Result<(), registry_client::protocol::Invalid> {
/// let config = ClientConfig::new("proxy:81".parse()?).with_request_timeout(Duration::from_secs(5));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The registry.
    pub endpoint: Endpoint,
    /// From one PING to the next (30 s). A silent peer is noticed within this and `request_timeout`.
    pub keepalive_interval: Duration,
    /// How long a command may wait for its reply (10 s).
    pub request_timeout: Duration,
    /// How long the resolution of the name may take, and then each address (5 s).
    pub connect_timeout: Duration,
    /// The least delay before a new attempt to connect, and exactly the first (100 ms).
    pub reconnect_min: Duration,
    /// The greatest delay before a new attempt to connect (10 s).
    pub reconnect_max: Duration,
    /// How often a reference server is asked whether each route is still in force, because it loses routes that it lists
    /// ([PROTOCOL section 8](crate::spec::protocol#8-what-our-client-bears-from-the-reference-server), 7). `None` (the
    /// default): every second in the first minute of a session, and then every 3 s.
    pub route_watch_interval: Option<Duration>,
    /// Seeds the jitter of the delays, so that they are repeatable; `None` (the default): a random seed.
    pub seed: Option<u64>,
    /// Whether routes and maintenance pages that lead to this host's address follow when it changes (no). See
    /// [`ClientConfig::with_own_address_followed`].
    pub follow_own_address: bool,
}

impl ClientConfig {
    /// The registry at `endpoint`, with the defaults that the fields name.
    pub fn new(endpoint: Endpoint) -> Self {
        ClientConfig {
            endpoint,
            keepalive_interval: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(10),
            route_watch_interval: None,
            seed: None,
            follow_own_address: false,
        }
    }

    /// Sends a PING this often.
    #[must_use]
    pub fn with_keepalive_interval(mut self, interval: Duration) -> Self {
        self.keepalive_interval = interval;
        self
    }

    /// Waits this long for each reply.
    #[must_use]
    pub fn with_request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// Waits this long for the resolution of the name, and then for each address.
    #[must_use]
    pub fn with_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Waits between `min` and `max` before a new attempt to connect, exactly `min` before the first.
    #[must_use]
    pub fn with_reconnect_delays(mut self, min: Duration, max: Duration) -> Self {
        (self.reconnect_min, self.reconnect_max) = (min, max);
        self
    }

    /// Asks a reference server this often about its routes.
    #[must_use]
    pub fn with_route_watch_interval(mut self, interval: Duration) -> Self {
        self.route_watch_interval = Some(interval);
        self
    }

    /// Makes the delays repeatable.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Follows this host's address on the way to the registry: the client looks at it with each new session and every
    /// 5 s, and when it has changed it calls [`Client::change_address`](crate::Client::change_address).
    #[must_use]
    pub fn with_own_address_followed(mut self) -> Self {
        self.follow_own_address = true;
        self
    }
}
