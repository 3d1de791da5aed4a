//! One registry: its session as a client keeps it, told in the log, and checked with the proxy's own eyes.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::client::{
    BackendTestError, Client, ClientConfig, Connector, Endpoint as Registry, Event, EventStream, Intent,
    Phase, Route, RouteKey, Wanted,
};
use crate::protocol::BackendUrl;

use super::advice::Told;
use super::agent::Agent;
use super::config::RegistryConfig;
use super::maintenance::in_words;
use super::reach::{Findings, Verdict};
use super::repeats::{Repeats, Say};

/// How long the resolution of a registry's name may take, and then each address.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Another address of the same cluster takes our place as well, and then ends this session within that time.
const DOUBT: Duration = Duration::from_secs(1);
/// How long our own try to reach the backend may take.
const OWN_TRY: Duration = Duration::from_secs(2);
/// Between two questions to the proxy while the backend is unreachable: the first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A session with one registry, and the story of it.
pub(super) struct Registration {
    client: Client,
    events: EventStream,
    agent: Agent,
    /// The failures since the last success.
    repeats: Repeats,
}

impl Registration {
    /// Starts the session; it registers as soon as it can.
    pub(super) fn start(
        connector: impl Connector,
        registry: Registry,
        config: &RegistryConfig,
        intent: Intent,
        agent: Agent,
    ) -> Self {
        let mut client_config = ClientConfig::new(registry);
        client_config.keepalive_interval = config.keepalive.get();
        client_config.request_timeout = config.request_timeout.get();
        client_config.reconnect_min = config.reconnect_min.get();
        client_config.reconnect_max = config.reconnect_max.get();
        let (client, events) = Client::start_with(connector, client_config, intent);
        Registration { client, events, agent, repeats: Repeats::default() }
    }

    /// The handle with which the session is ended.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Tells what happens, and after each apply whether the routes are live, until the session has ended.
    pub(super) async fn run(mut self) {
        let never = || -> Pin<Box<dyn Future<Output = ()> + Send>> { Box::pin(std::future::pending()) };
        let (mut verification, mut doubt) = (never(), never());
        let mut replaced = None;
        loop {
            tokio::select! {
                biased;
                event = self.events.next() => match event {
                    None => return,
                    Some(event @ Event::Replaced { .. }) => {
                        self.agent.publish(&self.client.status().registry.name, &event);
                        replaced = Some(event);
                        doubt = Box::pin(sleep(DOUBT));
                    }
                    Some(event) => {
                        self.tell(&event);
                        self.agent.publish(&self.client.status().registry.name, &event);
                        // What is not to be seen need not be reachable.
                        let is_news =
                            matches!(event, Event::ConfigApplied { .. } | Event::MaintenanceExited { .. });
                        if is_news && self.agent.wanted() == Wanted::Live {
                            verification = Box::pin(verify(self.client.clone(), self.client.routes()));
                        }
                    }
                },
                () = &mut verification => verification = never(),
                () = &mut doubt => {
                    doubt = never();
                    if let Some(event) = replaced.take().filter(|_| self.client.status().phase == Phase::Dormant) {
                        self.tell(&event);
                    }
                }
            }
        }
    }

    /// One line for what happened. A failure that goes on in the same way is told once, and then ever more
    /// seldom.
    fn tell(&mut self, event: &Event) {
        match event {
            Event::Retrying(retry) | Event::ExtendedRetry(retry) => {
                self.tell_failure(&format!("{} {}", event.name(), retry.cause), event);
            }
            // Without the pause until the next try and the route's id, which are others each time.
            Event::RouteRefused { key, refusal, .. } => {
                self.tell_failure(&format!("{key} {}", without_id(&refusal.text())), event);
            }
            Event::ApplyRefused { refusal, .. } => self.tell_failure(without_id(&refusal.text()), event),
            Event::Error { .. } | Event::MaintenanceFailed { .. } => {
                self.tell_failure(&event.to_string(), event);
            }
            Event::Disconnected { .. }
            | Event::Replaced { .. }
            | Event::Unsupported { .. }
            | Event::Missed(_) => warn!("{}", Told(event)),
            _ => {
                self.repeats.over();
                info!("{event}");
            }
        }
    }

    fn tell_failure(&mut self, failure: &str, event: &Event) {
        let told = Told(event);
        match self.repeats.met(failure, Instant::now()) {
            Say::All => warn!("{told}"),
            Say::Again(times, time) => warn!("{told} (the same {times} times in {})", in_words(time)),
            Say::Nothing => debug!("{told}"),
        }
    }
}

/// `example.com/ belongs to service X` of `route r2: example.com/ belongs to service X`.
fn without_id(refusal: &str) -> &str {
    let named = refusal.strip_prefix("route r").and_then(|rest| rest.split_once(": "));
    named.map_or(refusal, |(_, why)| why)
}

/// Asks until every route is live, and says so for each. What stays as it was is not said again.
async fn verify(client: Client, mut routes: BTreeMap<RouteKey, Route>) {
    let mut pause = FIRST_PAUSE;
    let mut told: BTreeMap<RouteKey, String> = BTreeMap::new();
    loop {
        let mut missing = BTreeMap::new();
        for (key, route) in routes {
            let Some(findings) = findings(&client, &route.backend).await else {
                missing.insert(key, route);
                continue;
            };
            let verdict = findings.verdict();
            let line = format!("{} -> {}: {verdict}", Urls(&route), route.backend);
            match verdict {
                Verdict::Live { .. } => info!("live: {line}"),
                Verdict::Unreachable { .. } => {
                    if told.get(&key) != Some(&line) {
                        warn!("not live: {line}");
                    }
                    told.insert(key.clone(), line);
                    missing.insert(key, route);
                }
            }
        }
        if missing.is_empty() {
            return;
        }
        routes = missing;
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// `None`: the proxy was not asked, so there is nothing to say about the backend.
async fn findings(client: &Client, backend: &BackendUrl) -> Option<Findings> {
    let (from_here, from_proxy) = tokio::join!(reach(backend), client.backend_test(backend.clone()));
    let from_proxy = match from_proxy {
        Ok(report) => Ok(report),
        Err(BackendTestError::NoSession | BackendTestError::TooMany | BackendTestError::Stopped) => {
            return None;
        }
        Err(error) => Err(error.to_string()),
    };
    Some(Findings { backend: backend.clone(), from_here, from_proxy })
}

/// Our own connection to the advertised address, as the proxy would make it.
async fn reach(backend: &BackendUrl) -> Result<(), String> {
    match timeout(OWN_TRY, TcpStream::connect(backend.authority())).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no connection within {OWN_TRY:?}")),
    }
}

/// Under which URLs a route's requests come.
struct Urls<'a>(&'a Route);

impl std::fmt::Display for Urls<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, domain) in self.0.domains.as_slice().iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            write!(f, "{separator}http://{domain}{}", self.0.path)?;
        }
        Ok(())
    }
}
