//! Starting a client: its task, its handle and its events.

use tokio::sync::{broadcast, mpsc, watch};

use super::config::ClientConfig;
use super::connect::{Connector, TcpConnector, local_address_towards};
use super::driver::{Core, Driver, Inputs};
use super::event::{EVENT_BUFFER, EventStream};
use super::follow::follow_own_address;
use super::handle::{Client, Shared};
use super::intent::Intent;
use super::session::{Session, Timing};

/// How many questions may wait for the task.
const MAX_TASK_REQUESTS: usize = 16;

impl Client {
    /// Starts a client over TCP on the current tokio runtime (either kind) and returns at once. The stream has every
    /// event from the first on.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and in one whose timers or I/O are off.
    pub fn start(config: ClientConfig, intent: Intent) -> (Client, EventStream) {
        let connector = TcpConnector::new(config.endpoint.clone(), config.connect_timeout);
        Client::start_with(connector, config, intent)
    }

    /// Starts a client over whatever `connector` connects to; the configured endpoint is only the name in events.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and in one whose timers are off.
    pub fn start_with<C: Connector>(
        connector: C,
        config: ClientConfig,
        intent: Intent,
    ) -> (Client, EventStream) {
        let timing = Timing {
            keepalive_interval: config.keepalive_interval,
            request_timeout: config.request_timeout,
            reconnect_min: config.reconnect_min,
            reconnect_max: config.reconnect_max,
            route_watch: config.route_watch_interval,
        };
        let seed = config.seed.unwrap_or_else(|| fastrand::u64(..));
        let (goal, goal_seen) = watch::channel(intent.goal());
        let now = tokio::time::Instant::now().into_std();
        let session = Session::new(config.endpoint.to_string().into(), timing, intent, seed, now);
        let (leave, leave_seen) = watch::channel(false);
        let (requests, asked) = mpsc::channel(MAX_TASK_REQUESTS);
        let (events, listener) = broadcast::channel(EVENT_BUFFER);
        let (status_shown, status) = watch::channel(session.status());
        let weak_events = events.downgrade();
        let inputs = Inputs { goal: goal_seen, leave: leave_seen, requests: asked, left: false };
        let core = Core::new(session, events, status_shown);
        tokio::spawn(Driver { connector, core, inputs }.run());
        let client = Client::new(Shared { goal, leave, requests, status, events: weak_events });
        if config.follow_own_address {
            let own_address = |peer| local_address_towards(peer).ok();
            tokio::spawn(follow_own_address(client.downgrade(), client.watch(), own_address));
        }
        (client, EventStream::new(listener))
    }
}
