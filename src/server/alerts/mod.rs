//! ALERT_WEBHOOKS: tells people elsewhere of what they should know, and when it is over.
//!
//! | file | what it does |
//! |---|---|
//! | `conditions` | pure: from what is observed to alerts that begin and end |
//! | `outbox` | pure: what one receiver has not been told, folded, and when it is tried again |
//! | `message` | pure: the body of a message in each form |
//! | `post` | sends one |
//!
//! Nothing waits for a receiver. What a receiver does not take is folded and kept, up to a bound.

mod conditions;
mod message;
mod outbox;
mod post;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::server::cluster::StatusReader;
use crate::server::listener::Desk;
use crate::server::live_table::LiveTable;
use crate::server::proxy::Certificates;
use crate::server::registry::LogEvent;
use crate::server::webhook::Webhook;

use conditions::{Conditions, Observation};
use outbox::{Alert, Outbox};

/// How often it is looked at how things are.
const LOOK: Duration = Duration::from_secs(1);
/// How many alerts may wait to be taken up by a receiver's task.
const QUEUE: usize = 256;

/// Where alerts come from.
#[derive(Debug)]
pub struct Watched {
    /// The routing table.
    pub table: Arc<LiveTable>,
    /// The way to the registry.
    pub desk: Desk,
    /// The certificates of CERT_DIR.
    pub certificates: Option<Certificates>,
    /// The cluster, if the server is one of several.
    pub cluster: Option<StatusReader>,
    /// How messages name this server.
    pub host: String,
}

/// How many messages were sent and how many attempts failed.
#[derive(Debug, Default)]
pub struct AlertCounts {
    /// Messages that a receiver took.
    pub sent: AtomicU64,
    /// Attempts that failed, each of which is repeated.
    pub failed: AtomicU64,
}

/// The running alerts. They stop when this is dropped.
#[derive(Debug)]
pub struct Alerts {
    counts: Arc<AlertCounts>,
    _tasks: JoinSet<()>,
}

impl Alerts {
    /// Tells each of these receivers. Must be called within a Tokio runtime.
    pub fn start(webhooks: &[Webhook], watched: Watched) -> Alerts {
        let counts: Arc<AlertCounts> = Arc::default();
        let mut tasks = JoinSet::new();
        let mut receivers = Vec::new();
        for webhook in webhooks {
            let (sender, queue) = mpsc::channel(QUEUE);
            receivers.push(sender);
            tasks.spawn(tell(webhook.clone(), watched.host.clone(), queue, Arc::clone(&counts)));
        }
        tasks.spawn(watch(watched, receivers));
        Alerts { counts, _tasks: tasks }
    }

    /// What became of the messages.
    pub fn counts(&self) -> Arc<AlertCounts> {
        Arc::clone(&self.counts)
    }
}

/// Looks at how things are, and passes on which alerts begin and end.
async fn watch(watched: Watched, receivers: Vec<mpsc::Sender<Alert>>) {
    let mut events = watched.desk.events();
    let mut conditions = Conditions::default();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut refused = false;
    loop {
        tokio::select! {
            _ = look.tick() => {}
            event = events.recv() => {
                match event {
                    Ok(LogEvent::StoreRefused(_)) => refused = true,
                    Err(broadcast::error::RecvError::Closed) => return,
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                }
                continue;
            }
        }
        let observation = observe(&watched, std::mem::take(&mut refused));
        for alert in conditions.observe(Instant::now(), SystemTime::now(), &observation) {
            tracing::debug!(?alert, "alert");
            for receiver in &receivers {
                // A receiver's task takes alerts up at once, whatever its receiver does.
                let _ = receiver.send(alert.clone()).await;
            }
        }
    }
}

fn observe(watched: &Watched, store_refused: bool) -> Observation {
    let mut observation = Observation { store_refused, ..Observation::default() };
    for claim in watched.table.load().claims() {
        let now = Instant::now();
        let serves = claim
            .members
            .iter()
            .any(|member| member.usable && !member.load.is_ejected(now) && !member.load.is_unreachable());
        let is_well = serves || claim.maintenance().is_some();
        let service = observation.services.entry(claim.terms.service.to_string()).or_insert(true);
        *service &= is_well;
    }
    for certificate in watched.certificates.iter().flat_map(Certificates::list) {
        if let (Some(name), Some(ends)) = (certificate.names.first(), certificate.ends) {
            observation.certificates.insert(name.clone(), ends);
        }
    }
    observation.store_trouble = watched.cluster.as_ref().and_then(|cluster| cluster.read().trouble);
    observation
}

/// Tells one receiver.
async fn tell(webhook: Webhook, host: String, mut queue: mpsc::Receiver<Alert>, counts: Arc<AlertCounts>) {
    let mut outbox = Outbox::default();
    let trust = post::Trust::default();
    loop {
        let due = outbox.due().map(tokio::time::Instant::from_std);
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            alert = queue.recv() => match alert {
                Some(alert) => outbox.add(Instant::now(), alert),
                None => return,
            },
            () = wait => {
                let batch = outbox.take();
                let body = message::body(webhook.form(), &host, &batch);
                // Alerts that come meanwhile wait in the queue, which is emptied before the next attempt.
                let sending = post::post(&webhook, body, &trust);
                tokio::pin!(sending);
                let result = loop {
                    tokio::select! {
                        result = &mut sending => break result,
                        Some(alert) = queue.recv() => outbox.add(Instant::now(), alert),
                    }
                };
                match result {
                    Ok(()) => {
                        counts.sent.fetch_add(1, Ordering::Relaxed);
                        outbox.sent(Instant::now());
                    }
                    Err(failure) => {
                        counts.failed.fetch_add(1, Ordering::Relaxed);
                        let pause = outbox.failed(Instant::now(), batch, failure.retry_after);
                        tracing::warn!(receiver = %webhook, ?pause, "alerts not taken: {}", failure.why);
                    }
                }
            }
        }
    }
}
