//! REGISTRY_EACH_ADDRESS: follows the addresses of the registries' names, and starts and ends sessions as the
//! [`AddressPlan`] of each name decides.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::sidecar::config::Endpoint;
use registry_client::{Endpoint as Registry, Phase, Resolver, Status};

use super::address_plan::{AddressPlan, Change, Reason, SessionNo, SessionReport};
use super::session_set::{Place, Sessions, registry};

/// The pause between two resolutions of a name.
const INTERVAL: Duration = Duration::from_secs(5);
/// The first pause after a resolution that found nothing; it doubles up to [`INTERVAL`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A resolution that takes longer is warned about, and goes on.
const SLOW_RESOLUTION: Duration = Duration::from_secs(5);
/// How many updates about one name are queued; senders of more wait.
const MAX_UPDATES: usize = 16;

/// Follows the addresses of all names of which each address has a session. Never returns.
///
/// Cancel-safe: the sessions stay as they are.
pub(super) async fn follow_names<R: Resolver + Clone>(sessions: &Sessions<R>) {
    let names = sessions.endpoints_per_address();
    join_all(names.map(|(index, name)| FollowedName::new(sessions, index, name).follow())).await;
    pending().await
}

/// A name of which each address is followed.
struct FollowedName<'a, R> {
    sessions: &'a Sessions<R>,
    index: usize,
    registry: Registry,
    plan: AddressPlan,
    running: BTreeMap<SessionNo, RunningSession>,
    warned_of_too_many: bool,
}

/// A session with one or several addresses of the name.
struct RunningSession {
    /// The address with which it began; the log names the session by it.
    address: SocketAddr,
    addresses: watch::Sender<Vec<SocketAddr>>,
}

/// What the plan has to learn.
enum Update {
    Resolved(Vec<SocketAddr>),
    Reported(SessionNo, SessionReport),
}

impl<'a, R: Resolver + Clone> FollowedName<'a, R> {
    fn new(sessions: &'a Sessions<R>, index: usize, endpoint: &Endpoint) -> Self {
        FollowedName {
            sessions,
            index,
            registry: registry(endpoint),
            plan: AddressPlan::default(),
            running: BTreeMap::new(),
            warned_of_too_many: false,
        }
    }

    async fn follow(mut self) {
        let (sender, mut updates) = mpsc::channel(MAX_UPDATES);
        let mut resolving =
            pin!(resolve_repeatedly(self.sessions.resolver(), self.registry.clone(), sender.clone()));
        loop {
            let changes = tokio::select! {
                () = &mut resolving => return,
                Some(update) = updates.recv() => match update {
                    Update::Resolved(addresses) => self.plan.on_resolved(&addresses),
                    Update::Reported(no, report) => self.plan.on_report(no, &report),
                },
            };
            changes.into_iter().for_each(|change| self.carry_out(change, &sender));
        }
    }

    fn carry_out(&mut self, change: Change, sender: &mpsc::Sender<Update>) {
        let host = &self.registry.host;
        match change {
            Change::Start(no, address) => self.start(no, address, sender),
            Change::Move(no, addresses) => {
                if let Some(session) = self.running.get(&no) {
                    debug!("the session with {} goes on with {addresses:?}", session.address);
                    session.addresses.send_replace(addresses);
                }
            }
            Change::End(no, reason) => self.end(no, reason),
            Change::TooMany(count) if self.warned_of_too_many => debug!("{host}: {count} addresses too many"),
            Change::TooMany(count) => {
                self.warned_of_too_many = true;
                warn!("{host} has {count} addresses more than there may be sessions: those get none");
            }
        }
    }

    fn start(&mut self, no: SessionNo, address: SocketAddr, sender: &mpsc::Sender<Update>) {
        info!("{} has the address {}: a session with it", self.registry.host, address.ip());
        let (addresses, place) = watch::channel(vec![address]);
        let registry = Registry::new(address.ip().to_string(), address.port());
        let client = self.sessions.begin((self.index, no), registry, Place::At(place));
        self.running.insert(no, RunningSession { address, addresses });
        tokio::spawn(report_changes(no, client.watch(), sender.clone()));
    }

    fn end(&mut self, no: SessionNo, reason: Reason) {
        let Some(session) = self.running.remove(&no) else { return };
        let (host, address) = (&self.registry.host, session.address.ip());
        match reason {
            Reason::Gone => info!("{host} no longer has the address {address}: its session ends"),
            Reason::SameCluster(other) => {
                let other = self.running.get(&other).map(|other| other.address.ip().to_string());
                let other = other.unwrap_or_default();
                info!("{address} and {other} share their state: one session is enough for both");
            }
        }
        self.sessions.end((self.index, no));
    }
}

/// Resolves a name again and again, until the receiver is dropped. A failure is logged once. It waits for a
/// resolution that hangs, because another one would hang as well.
async fn resolve_repeatedly<R: Resolver>(resolver: R, registry: Registry, sender: mpsc::Sender<Update>) {
    let (mut pause, mut logged) = (FIRST_PAUSE, None);
    loop {
        let mut resolving = pin!(resolver.resolve(&registry));
        let in_time = timeout(SLOW_RESOLUTION, &mut resolving).await;
        if in_time.is_err() && logged.is_none() {
            warn!(
                "the name {:?} is not resolved after {SLOW_RESOLUTION:?}: is the name server up?",
                registry.host
            );
            logged = Some("late".to_owned());
        }
        let found = match in_time {
            Ok(found) => found,
            Err(_) => resolving.await,
        };
        let failure = match found {
            Ok(addresses) if !addresses.is_empty() => {
                if sender.send(Update::Resolved(addresses)).await.is_err() {
                    return;
                }
                (pause, logged) = (INTERVAL, None);
                None
            }
            Ok(_) => Some("no address".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if failure.is_some() && failure != logged {
            let failure = failure.as_deref().unwrap_or_default();
            warn!(
                "the name {:?} does not resolve ({failure}): is the registry up and on a common network?",
                registry.host
            );
        }
        logged = failure.or(logged);
        sleep(pause).await;
        pause = (pause * 2).min(INTERVAL);
    }
}

/// Reports every change of a session, until the session or the receiver has ended.
async fn report_changes(no: SessionNo, mut status: watch::Receiver<Status>, sender: mpsc::Sender<Update>) {
    let mut last = None;
    loop {
        let report = SessionReport::from(&*status.borrow_and_update());
        if last.as_ref() != Some(&report) {
            last = Some(report.clone());
            if sender.send(Update::Reported(no, report)).await.is_err() {
                return;
            }
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

impl From<&Status> for SessionReport {
    fn from(status: &Status) -> SessionReport {
        SessionReport {
            bound: status.bound,
            peer: status.registry.peer,
            cluster: status.cluster_id.clone(),
            replaced: status.phase == Phase::Dormant,
        }
    }
}
