//! The session with one registry: logs its events, and tests after each apply whether the proxy reaches the backends.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::sidecar::config::RegistryConfig;
use crate::sidecar::maintenance::duration_text;
use crate::sidecar::state::DaemonState;
use registry_client::protocol::EventKind;
use registry_client::{
    Client, ClientConfig, Connector, Endpoint as Registry, Event, EventStream, Intent, Phase, Visibility,
};

use super::backend_test::until_live;
use super::hints::WithHint;
use super::log_throttle::{Log, LogThrottle};
use super::proxy_health::{Told, follow};

/// How long the resolution of a registry's name may take, and then the connection to each address.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before a replaced session is warned about. If another of our own sessions with the same cluster
/// has replaced it, this one ends within that time.
const REPLACEMENT_DELAY: Duration = Duration::from_secs(1);
/// A session with one registry.
pub(super) struct Session {
    client: Client,
    events: EventStream,
    state: DaemonState,
    /// The instance's name, by which events about its own backends are told from others.
    instance: String,
    /// What the proxy has told of them last.
    told: watch::Sender<Told>,
    /// Decides which repeated failures are logged.
    throttle: LogThrottle,
}

impl Session {
    /// Starts the session; it registers as soon as it can.
    pub(super) fn start(
        connector: impl Connector,
        registry: Registry,
        config: &RegistryConfig,
        intent: Intent,
        state: DaemonState,
    ) -> Self {
        let mut client_config = ClientConfig::new(registry);
        client_config.keepalive_interval = config.keepalive.get();
        client_config.request_timeout = config.request_timeout.get();
        client_config.reconnect_min = config.reconnect_min.get();
        client_config.reconnect_max = config.reconnect_max.get();
        let instance = intent.instance.to_string();
        let (client, events) = Client::start_with(connector, client_config, intent);
        let told = watch::Sender::new(Told::default());
        Session { client, events, state, instance, told, throttle: LogThrottle::default() }
    }

    /// A handle to the client that keeps the session.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Logs and records the events until the session has ended.
    pub(super) async fn run(mut self) {
        let never = || -> Pin<Box<dyn Future<Output = ()> + Send>> { Box::pin(std::future::pending()) };
        let (mut verification, mut replacement_due) = (never(), never());
        let follow = follow(self.client.clone(), self.state.clone(), self.told.subscribe());
        let mut followed: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(follow);
        let mut replaced = None;
        loop {
            tokio::select! {
                biased;
                event = self.events.next() => match event {
                    None => return,
                    Some(event @ Event::Replaced { .. }) => {
                        self.state.record(&self.client.status().registry.name, &event);
                        replaced = Some(event);
                        replacement_due = Box::pin(sleep(REPLACEMENT_DELAY));
                    }
                    Some(event) => {
                        self.hear_of_backends(&event).await;
                        self.log_event(&event);
                        self.state.record(&self.client.status().registry.name, &event);
                        // Test the backends only while people are to see them.
                        let is_news =
                            matches!(event, Event::ConfigApplied { .. } | Event::MaintenanceExited { .. });
                        if is_news && self.state.visibility() == Visibility::Live {
                            verification = Box::pin(until_live(self.client.clone(), self.client.routes()));
                        }
                    }
                },
                () = &mut verification => verification = never(),
                () = &mut followed => followed = never(),
                () = &mut replacement_due => {
                    replacement_due = never();
                    if let Some(event) = replaced.take().filter(|_| self.client.status().phase == Phase::Dormant) {
                        self.log_event(&event);
                    }
                }
            }
        }
    }

    /// Subscribes to the events about backends where there are some, and keeps what they tell of this instance's.
    async fn hear_of_backends(&self, event: &Event) {
        match event {
            Event::ConfigApplied { .. } if self.client.status().ours => {
                // A client that has stopped has no use for events.
                let _ = self.client.subscribe(EventKind::BackendHealthChanged).await;
            }
            Event::Registry { kind: EventKind::BackendHealthChanged, data } => {
                let told = serde_json::to_value(data).ok().and_then(|data| Told::of(&data, &self.instance));
                drop(told.map(|told| self.told.send_replace(told)));
            }
            _ => {}
        }
    }

    /// Logs an event in one line. A repeated failure is logged less and less often.
    fn log_event(&mut self, event: &Event) {
        match event {
            Event::Retrying(retry) | Event::ExtendedRetry(retry) => {
                self.log_failure(&format!("{} {}", event.name(), retry.cause), event);
            }
            // Compare failures without the pause until the next try and the route's id, which differ each time.
            Event::RouteRefused { key, refusal, .. } => {
                self.log_failure(&format!("{key} {}", without_id(&refusal.text())), event);
            }
            Event::ApplyRefused { refusal, .. } => self.log_failure(without_id(&refusal.text()), event),
            Event::Error { .. } | Event::MaintenanceFailed { .. } => {
                self.log_failure(&event.to_string(), event);
            }
            // Whoever follows the backends logs what becomes of ours.
            Event::Registry { kind: EventKind::BackendHealthChanged, .. } => debug!("{event}"),
            Event::Disconnected { .. }
            | Event::Replaced { .. }
            | Event::Unsupported { .. }
            | Event::Missed(_) => warn!("{}", WithHint(event)),
            _ => {
                self.throttle.on_success();
                info!("{event}");
            }
        }
    }

    fn log_failure(&mut self, failure: &str, event: &Event) {
        let told = WithHint(event);
        match self.throttle.on_failure(failure, Instant::now()) {
            Log::Now => warn!("{told}"),
            Log::Repeated(times, time) => warn!("{told} (the same {times} times in {})", duration_text(time)),
            Log::Suppressed => debug!("{told}"),
        }
    }
}

/// The refusal without the route's id: `example.com/ belongs to service X`, from
/// `route r2: example.com/ belongs to service X`.
fn without_id(refusal: &str) -> &str {
    let named = refusal.strip_prefix("route r").and_then(|rest| rest.split_once(": "));
    named.map_or(refusal, |(_, why)| why)
}
