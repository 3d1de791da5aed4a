//! A member of a claim: one session's backend, with the settings of its own route.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use registry_client::protocol::{BackendUrl, InstanceName, RouteOption, ServiceName};

use super::Claim;
use super::drain::Drain;
use super::ejection::{Ejection, Outcome};
use super::extras::{Extras, RouteState};

/// Which member this is; the same in every snapshot of the table for as long as the member lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

/// (session, backend URL) within a claim (SEMANTICS section 1), as a snapshot of the table has it.
#[derive(Debug, Clone)]
pub struct Member {
    /// What is the same in every snapshot; whatever it has is reached through the member.
    pub endpoint: Arc<Endpoint>,
    /// What its session and its own route say.
    pub terms: Arc<Terms>,
    /// What the data plane found out about its own route.
    pub route: Arc<RouteState>,
    /// Whether the registry lets requests to it: its checks pass, it is not suspended.
    pub usable: bool,
}

/// A member's backend, and what is counted there.
#[derive(Debug)]
pub struct Endpoint {
    /// Whose.
    pub id: MemberId,
    /// Where requests go.
    pub backend: BackendUrl,
    /// What the data plane knows of it, shared by all cores and by every snapshot.
    pub load: MemberLoad,
}

/// What a session and one of its routes say. Members of a session whose routes say the same share it.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// Who owns the claim.
    pub service: ServiceName,
    /// Who registered it; for logs.
    pub instance: InstanceName,
    /// From which address its session was registered: what it may reach depends on it.
    pub peer: IpAddr,
    /// Higher wins over a longer path.
    pub priority: i32,
    /// How long requests wait after a loss; zero: not at all.
    pub hold: Duration,
    /// The route's options.
    pub settings: Settings,
    /// What else the route says.
    pub extras: Extras,
    /// It is being drained: its share of the requests falls.
    pub drain: Option<Box<Drain>>,
}

impl Endpoint {
    /// One that nothing was counted at yet.
    pub fn new(id: MemberId, backend: BackendUrl) -> Self {
        Endpoint { id, backend, load: MemberLoad::default() }
    }
}

impl Member {
    /// Whether a request may go there as far as the circuit breaker of its route is concerned.
    pub fn may_pass(&self, now: Instant) -> bool {
        self.terms.extras.breaker().is_none_or(|rule| self.route.breaker().may_pass(rule, now))
    }

    /// Whether it is this very member, shown as the same.
    pub fn is_shown_as(&self, other: &Member) -> bool {
        Arc::ptr_eq(&self.endpoint, &other.endpoint)
            && Arc::ptr_eq(&self.terms, &other.terms)
            && Arc::ptr_eq(&self.route, &other.route)
            && self.usable == other.usable
    }
}

impl Deref for Member {
    type Target = Endpoint;

    #[inline]
    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
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
    /// Every request is for the backend URL itself: it is a maintenance page that is a file.
    pub one_page: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            timeout: Duration::from_secs(60),
            websocket: true,
            preserve_host: true,
            compression: false,
            http2: false,
            one_page: false,
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
    pub in_flight: AtomicU32,
    /// Upgraded connections (websockets), which are not counted above (SEMANTICS section 6).
    pub upgraded: AtomicU32,
    /// It takes no new requests. Set before the table says so, which makes `in_flight` exact.
    closed: AtomicBool,
    /// Its session is over: upgraded connections are to be closed.
    left: AtomicBool,
    /// Once a request has failed.
    failures: OnceLock<Box<Failures>>,
}

#[derive(Debug)]
struct Failures {
    /// An [`Ejection`], packed.
    ejection: AtomicU64,
    /// The moment that its times count from.
    epoch: Instant,
}

impl MemberLoad {
    /// Lets no more requests in. Whoever reads `in_flight` after this counts every request that is in.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Lets requests in again.
    pub fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }

    /// It is gone for good: whoever still has an upgraded connection to it closes that.
    pub fn leave(&self) {
        self.close();
        self.left.store(true, Ordering::SeqCst);
    }

    /// Whether no more requests are let in.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Whether nothing is held against it, so that one more answer would change nothing.
    pub fn is_well(&self) -> bool {
        self.failures.get().is_none_or(|failures| failures.ejection.load(Ordering::Relaxed) == 0)
    }

    /// Takes note of what a request found out. Returns the state that came of it if it is a new one.
    pub fn record(&self, outcome: Outcome, now: Instant) -> Option<Ejection> {
        if outcome == Outcome::Answered && self.is_well() {
            return None;
        }
        let first = || Box::new(Failures { ejection: AtomicU64::new(0), epoch: now });
        let Failures { ejection, epoch } = &**self.failures.get_or_init(first);
        let since = now.saturating_duration_since(*epoch);
        let next = |bits| Some(Ejection::unpack(bits).next(outcome, since).pack());
        let before = ejection.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok()?;
        let state = Ejection::unpack(before).next(outcome, since);
        (state.pack() != before).then_some(state)
    }

    /// Whether it failed so often that requests should go elsewhere at `now` (SEMANTICS section 3).
    pub fn is_ejected(&self, now: Instant) -> bool {
        let Some(Failures { ejection, epoch }) = self.failures.get().map(|failures| &**failures) else {
            return false;
        };
        Ejection::unpack(ejection.load(Ordering::Relaxed)).is_out(now.saturating_duration_since(*epoch))
    }
}

/// A member that was chosen for a request: one of a claim, or a backend with a maintenance page.
#[derive(Debug, Clone)]
pub enum Chosen {
    /// The claim, and at which place among its members.
    Of(Arc<Claim>, usize),
    /// The page's.
    Page(Arc<Member>),
}

impl Deref for Chosen {
    type Target = Member;

    #[inline]
    fn deref(&self) -> &Member {
        match self {
            Chosen::Of(claim, at) => &claim.members[*at],
            Chosen::Page(member) => member,
        }
    }
}

/// A request at a member: it counts as in flight until this is dropped.
#[derive(Debug)]
pub struct InFlight(Chosen);

impl InFlight {
    /// Counts one more request at the member, unless it takes none any more. Either this sees that it was closed,
    /// or whoever closed it sees the request.
    pub fn admit(chosen: Chosen) -> Option<Self> {
        chosen.load.in_flight.fetch_add(1, Ordering::SeqCst);
        let admitted = InFlight(chosen);
        (!admitted.load.is_closed()).then_some(admitted)
    }

    /// The request became something else: from now on it counts as upgraded, and no longer as in flight.
    pub fn into_upgraded(self) -> Upgraded {
        self.load.upgraded.fetch_add(1, Ordering::Relaxed);
        Upgraded(Arc::clone(&self.endpoint))
    }
}

impl Deref for InFlight {
    type Target = Chosen;

    #[inline]
    fn deref(&self) -> &Chosen {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An upgraded connection at a member: it counts until this is dropped.
#[derive(Debug)]
pub struct Upgraded(Arc<Endpoint>);

impl Upgraded {
    /// Whether the member's session is over, so that the connection is to be closed.
    pub fn has_left(&self) -> bool {
        self.0.load.left.load(Ordering::SeqCst)
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        self.0.load.upgraded.fetch_sub(1, Ordering::Relaxed);
    }
}
