//! One request, from its head to the head of its response.

mod hold;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue, LOCATION, UPGRADE};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;

use crate::protocol::Scheme;
use crate::server::routing::{
    AddressLimit, Admission, Chosen, Claim, InFlight, Member, MemberId, Outcome, Settings, normalise,
};

use super::alarm::Alarm;
use super::body::{Download, Progress, Reply, Upload};
use super::coding::{self, Accepted};
use super::compress::{Compressed, Slot};
use super::connection::ClientConnection;
use super::page::Page;
use super::record::Record;
use super::redirect::{self, Redirect};
use super::upstream::{self, ConnectError, Sender, Upstream};
use super::{headers, hygiene, tunnel};

/// To how many members a request is given, of which each but two must have left under it.
const MAX_MEMBERS: usize = 16;

/// What becomes of a request. In a box, because hyper moves it about, and it has room for whatever may be waited for.
pub(super) type Serving = Pin<Box<dyn Future<Output = Result<Response<Reply>, Infallible>>>>;

/// Answers a client's request: with a backend's response, or with a page of ours.
///
/// What needs no waiting is done before there is a future.
pub(super) fn serve(client: Rc<ClientConnection>, mut request: Request<Incoming>) -> Serving {
    let mut record = Record::begin(Rc::clone(&client), &request, Instant::now());
    record.pass_id_on(request.headers_mut());
    let (mut attempts, location) = match redirect::wanted(&client, &request) {
        Some(Redirect { status, location }) => (Err(Page::Redirected(status)), Some(location)),
        None => (Attempts::prepare(client, request, &mut record), None),
    };
    Box::pin(async move {
        let answer = match &mut attempts {
            Ok(attempts) => attempts.run(&mut record).await,
            Err(page) => Err(*page),
        };
        Ok(match answer {
            Ok(answer) => answer.into_response(attempts.ok().and_then(|done| done.tunnel), record),
            Err(page) => {
                let mut response = page.response(record);
                response.headers_mut().extend(location.map(|location| (LOCATION, location)));
                response
            }
        })
    })
}

/// What `look` makes of the claim that a request is for. It is given away only with a member that was chosen: how often
/// a claim is referred to is counted for all cores in one place, and once for a request is enough.
fn with_claim<T>(
    client: &ClientConnection,
    host: &HeaderValue,
    path: &str,
    look: impl FnOnce(&Arc<Claim>) -> Result<T, Page>,
) -> Result<T, Page> {
    let path = match path {
        // `OPTIONS *` is about the host as a whole.
        "*" => "/",
        path => path,
    };
    let path = normalise(path).map_err(|_| {
        Page::BadRequest("The path has an encoded slash beside a dot segment, which nobody can read surely.")
    })?;
    let host = host.to_str().map_err(|_| Page::NotClaimed)?;
    look(client.worker.shared.table.load().find(host, &path).ok_or(Page::NotClaimed)?)
}

/// A request as it goes to a backend, but for what depends on which.
struct Outgoing {
    request: Request<Upload>,
    /// The target as the client sent it.
    target: PathAndQuery,
    host: HeaderValue,
    upgrade: bool,
    /// The request's target stands for a member's base path.
    rebased: bool,
}

impl Outgoing {
    fn new(
        client: &ClientConnection,
        request: Request<Incoming>,
        host: HeaderValue,
        upgrade: Option<HeaderValue>,
        now: Instant,
    ) -> Self {
        let (mut parts, incoming) = request.into_parts();
        headers::strip_request(&mut parts.headers);
        if parts.version == Version::HTTP_2 {
            headers::join_cookies(&mut parts.headers);
        }
        client.forwarding.apply(&mut parts.headers, &host);
        let is_upgrade = upgrade.is_some();
        if let Some(upgrade) = upgrade {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, upgrade);
        }
        parts.version = Version::HTTP_11;
        let target = match parts.uri.path_and_query() {
            Some(target) => target.clone(),
            None => PathAndQuery::from_static("/"),
        };
        let rebased = parts.uri.authority().is_some();
        let request = Request::from_parts(parts, Upload::new(incoming, now));
        Outgoing { request, target, host, upgrade: is_upgrade, rebased }
    }

    /// Fills in what depends on the member.
    fn address_to(&mut self, member: &Member) -> Result<(), Page> {
        let base = member.backend.base_path();
        if !base.is_empty() {
            let joined = match self.target.as_str() {
                _ if member.terms.settings.one_page => base.to_owned(),
                "*" => base.to_owned(),
                target => format!("{base}{target}"),
            };
            let too_long = |_| Page::BadRequest("The request's target is too long.");
            *self.request.uri_mut() = Uri::try_from(joined).map_err(too_long)?;
            self.rebased = true;
        } else if self.rebased {
            *self.request.uri_mut() = Uri::from(self.target.clone());
            self.rebased = false;
        }
        // HTTP/2 makes the target absolute, and the next member may not want that.
        self.rebased |= member.backend.scheme() != Scheme::Http;
        let host = match member.terms.settings.preserve_host {
            true => self.host.clone(),
            false => HeaderValue::try_from(member.backend.host_header()).map_err(|_| Page::Unreachable)?,
        };
        self.request.headers_mut().insert(HOST, host);
        Ok(())
    }

    /// The request once more, if it may be sent a second time though the first may have arrived: it asks
    /// for nothing to be done, or for the same however often, and has no body that would be gone.
    fn spare(&self) -> Option<Request<Upload>> {
        let request = &self.request;
        if self.upgrade || !request.body().is_empty() || !request.method().is_idempotent() {
            return None;
        }
        let mut spare = Request::new(Upload::Empty);
        spare.method_mut().clone_from(request.method());
        spare.uri_mut().clone_from(request.uri());
        spare.headers_mut().clone_from(request.headers());
        Some(spare)
    }
}

/// The tries to get one request answered: a second member where the first could not be connected to or, if
/// that loses nothing, broke the connection; a new connection where a kept one turned out to be closed.
struct Attempts {
    client: Rc<ClientConnection>,
    /// Who may have it first, if anybody was usable when it came.
    first: Option<InFlight>,
    outgoing: Outgoing,
    /// The client's side of the upgrade that it asks for.
    tunnel: Option<OnUpgrade>,
}

/// Why an attempt did not come to a response.
enum Failure {
    /// A kept connection was closed, which says nothing about the member. The request is whole.
    Stale,
    /// The member could not be reached, or broke the connection. The request is whole.
    Member(Page),
    /// Nothing more can be tried.
    Final(Page),
}

impl Attempts {
    fn prepare(
        client: Rc<ClientConnection>,
        mut request: Request<Incoming>,
        record: &mut Record,
    ) -> Result<Self, Page> {
        let host = hygiene::host_of(&request)?;
        let now = record.now();
        let first = with_claim(&client, &host, request.uri().path(), |claim| {
            if let Some(limit) = &claim.limit {
                within_limit(limit, &client, request.headers(), now)?;
            }
            record.claimed(claim);
            Ok(choose(claim, None, record))
        })?;
        let upgrade =
            headers::wanted_upgrade(request.headers()).filter(|_| request.version() == Version::HTTP_11);
        let tunnel = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let outgoing = Outgoing::new(&client, request, host, upgrade, now);
        Ok(Attempts { client, first, outgoing, tunnel })
    }

    async fn run(&mut self, record: &mut Record) -> Result<Answer, Page> {
        let mut lease = match self.first.take() {
            Some(first) => first,
            None => self.member(None, record).await?,
        };
        record.uploads(self.outgoing.request.body().progress());
        let mut tried = None;
        for _ in 0..MAX_MEMBERS {
            let id = lease.id;
            record.sent_to(lease);
            let page = match self.ask(record).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Member(page)) => page,
                Err(Failure::Final(page)) => return Err(page),
                Err(Failure::Stale) => return Err(Page::Unreachable),
            };
            let has_left = record.taken_back();
            record.look_at(Instant::now());
            lease = if has_left {
                // It has not failed.
                self.member(tried, record).await?
            } else if tried.replace(id).is_none() {
                self.member(tried, record)
                    .await
                    .map_err(|then| if then == Page::Maintenance { then } else { page })?
            } else {
                return Err(page);
            };
        }
        Err(Page::Unreachable)
    }

    /// The member that has the request: on a kept connection, and on a new one where that turned out to be closed.
    async fn ask(&mut self, record: &mut Record) -> Result<Answer, Failure> {
        let member = leased(record)?;
        if self.outgoing.upgrade && !member.terms.settings.websocket {
            return Err(Failure::Final(Page::NoUpgrade));
        }
        self.outgoing.address_to(member).map_err(Failure::Final)?;
        match self.attempt(false, record).await {
            Err(Failure::Stale) => self.attempt(true, record).await,
            other => other,
        }
    }

    async fn attempt(&mut self, fresh: bool, record: &mut Record) -> Result<Answer, Failure> {
        let Upstream { mut sender, reused } = self.connection(fresh, record).await?;
        let spare = self.outgoing.spare();
        let Settings { compression, timeout: limit, .. } = leased(record)?.terms.settings;
        let accepted = compression.then(|| Accepted::by(&self.outgoing.request, record.is_old()));
        let progress = self.outgoing.request.body().progress();
        let request = std::mem::replace(&mut self.outgoing.request, Request::new(Upload::Empty));
        // A kept connection was not waited for.
        let begun = if reused { record.now() } else { Instant::now() };
        record.alarm().set(begun + limit);
        let head = {
            let head = pin!(sender.send(request, self.outgoing.upgrade));
            within(limit, record.alarm(), progress, head).await
        };
        if let Err(Page::Late) = head {
            record.failed();
        }
        match head.map_err(Failure::Final)? {
            Ok(response) => {
                record.note(Outcome::Answered);
                record.judge(response.status());
                Ok(Answer { response, sender, idle_limit: limit, accepted })
            }
            Err(mut error) => {
                let whole = error.take_message().or(spare);
                Err(self.failure(&error.into_error(), whole, reused, record))
            }
        }
    }

    /// A connection to the member: a kept one, or a new one.
    async fn connection(&self, fresh: bool, record: &Record) -> Result<Upstream, Failure> {
        let member = leased(record)?;
        let worker = &self.client.worker;
        let (from, how) = ((&worker.pool, &worker.dialer), (self.outgoing.upgrade, fresh));
        let request = &self.outgoing.request;
        upstream::obtain(from, member, request, how, record.now()).await.map_err(|error| {
            tracing::debug!(instance = %member.terms.instance, backend = %member.backend, %error, "cannot connect");
            if let ConnectError::NoUpgrade = error {
                return Failure::Final(Page::NoUpgrade);
            }
            record.note(Outcome::Failed);
            Failure::Member(Page::Unreachable)
        })
    }

    /// What a broken exchange means. `whole`: the request, if it may be sent once more.
    fn failure(
        &mut self,
        error: &hyper::Error,
        whole: Option<Request<Upload>>,
        reused: bool,
        record: &Record,
    ) -> Failure {
        tracing::debug!(%error, reused, "a request was not answered");
        if error.is_user() {
            // Our own body failed, which is the client's.
            return Failure::Final(Page::BadRequest("The request's body could not be read."));
        }
        if error.is_parse() {
            record.failed();
            return Failure::Final(Page::Unintelligible);
        }
        if !reused {
            record.note(Outcome::Failed);
        }
        match whole {
            None => Failure::Final(Page::Unreachable),
            Some(request) => {
                self.outgoing.request = request;
                if reused { Failure::Stale } else { Failure::Member(Page::Unreachable) }
            }
        }
    }
}

/// The member that has the request. Somebody does while one is being asked.
fn leased(record: &Record) -> Result<&Member, Failure> {
    record.member().ok_or(Failure::Final(Page::Unreachable))
}

/// A member that may have the request, at which it counts from now on, and whose circuit breaker, if it has one,
/// then expects to hear about it.
fn choose(claim: &Arc<Claim>, tried: Option<MemberId>, record: &mut Record) -> Option<InFlight> {
    let mut random = |n| fastrand::usize(..n);
    loop {
        let at = claim.choose(tried, record.now(), &mut random)?;
        // `None`: it was closed since it was looked at, and it will not be chosen again.
        let Some(lease) = InFlight::admit(Chosen::Of(Arc::clone(claim), at)) else { continue };
        let Some(rule) = lease.terms.extras.breaker() else {
            record.admitted(None);
            return Some(lease);
        };
        // `None`: another core took the last trial since it was looked at, and it will not be chosen again.
        if let Some(admission) = Admission::ask(&lease.route, rule, record.now()) {
            record.admitted(Some(admission));
            return Some(lease);
        }
    }
}

/// Why no member of a claim may have the request.
fn nobody(claim: &Claim, now: Instant) -> Page {
    let usable = claim.members.iter().filter(|member| member.usable);
    let broken = usable.filter(|member| !member.may_pass(now));
    match broken.map(|member| member.route.breaker().wait(now).unwrap_or_default()).min() {
        Some(wait) => Page::CircuitOpen(seconds(wait)),
        None => Page::NoMember,
    }
}

/// Counts a request of the client against its claim's limit.
fn within_limit(
    limit: &AddressLimit,
    client: &ClientConnection,
    headers: &HeaderMap,
    now: Instant,
) -> Result<(), Page> {
    limit.take(client.forwarding.client(headers), now).map_err(|wait| {
        client.worker.notice_crowd(&client.forwarding);
        Page::TooMany(seconds(wait))
    })
}

/// For Retry-After: rounded up, and never now.
fn seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

/// Waits for a response's head until `alarm` goes off, or `limit` after the client last sent a part of the request.
async fn within<F: Future>(
    limit: Duration,
    alarm: &mut Alarm,
    progress: Option<Rc<Progress>>,
    mut head: Pin<&mut F>,
) -> Result<F::Output, Page> {
    poll_fn(|cx| {
        if let Poll::Ready(head) = head.as_mut().poll(cx) {
            return Poll::Ready(Ok(head));
        }
        while alarm.poll(cx).is_ready() {
            let Some(progress) = &progress else { return Poll::Ready(Err(Page::Late)) };
            let due = progress.last() + limit;
            if due <= Instant::now() {
                let stalled = progress.waiting.get();
                return Poll::Ready(Err(if stalled { Page::UploadStalled } else { Page::Late }));
            }
            alarm.set(due);
        }
        Poll::Pending
    })
    .await
}

/// A backend's response.
struct Answer {
    response: Response<Incoming>,
    sender: Sender,
    idle_limit: Duration,
    /// What the client accepts, where the route wants its responses compressed.
    accepted: Option<Accepted>,
}

impl Answer {
    fn into_response(self, tunnel: Option<OnUpgrade>, mut record: Box<Record>) -> Response<Reply> {
        if self.response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.into_tunnel(tunnel, record);
        }
        let (mut parts, incoming) = self.response.into_parts();
        if !headers::strip_response(&mut parts.headers) {
            record.failed();
            return Page::Unintelligible.response(record);
        }
        record.answered(parts.status);
        if let Some(headers) = record.extras().and_then(|extras| extras.headers()) {
            headers.put_into(&mut parts.headers);
        }
        parts.version = Version::HTTP_11;
        let compression = self.accepted.and_then(|accepted| {
            let slot = accepted.wants_encoder().then(|| Slot::take(record.worker()));
            let accepted = if let Some(None) = slot { accepted.unencoded() } else { accepted };
            let (slot, length) = (slot.flatten(), incoming.size_hint().exact());
            let coding = coding::prepare(parts.status, &mut parts.headers, accepted, length);
            coding.zip(slot)
        });
        let download = Download::new(incoming, self.sender, self.idle_limit, record);
        let body = match compression {
            None => Reply::Stream(download),
            Some((coding, slot)) => Reply::Compressed(Box::new(Compressed::new(download, coding, slot))),
        };
        Response::from_parts(parts, body)
    }

    fn into_tunnel(mut self, client: Option<OnUpgrade>, mut record: Box<Record>) -> Response<Reply> {
        let upgrade = self.response.headers().get(UPGRADE).cloned();
        // A backend must not switch unasked, nor to what it does not name.
        let (Some(client), Some(upgrade)) = (client, upgrade) else {
            return Page::Unintelligible.response(record);
        };
        let backend = hyper::upgrade::on(&mut self.response);
        let departures = record.departures();
        record.answered(StatusCode::SWITCHING_PROTOCOLS);
        if let Some(lease) = record.into_lease() {
            let is_websocket = upgrade.as_bytes().eq_ignore_ascii_case(b"websocket");
            let counted = lease.into_upgraded();
            tunnel::Tunnel { client, backend, is_websocket, counted, departures }.spawn();
        }
        let (mut parts, _) = self.response.into_parts();
        let _ = headers::strip_response(&mut parts.headers);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, upgrade);
        Response::from_parts(parts, Reply::Empty)
    }
}
