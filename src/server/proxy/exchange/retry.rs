//! Sends a request to members until one answers.
//!
//! [`Exchange::run`] asks one member after another, [`Exchange::ask`] one member, [`Exchange::attempt`] on one
//! connection. A second member is asked if the first could not be reached or, where repeating loses nothing, broke the
//! connection. A new connection is made if an open one turned out to be closed.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{HeaderName, Request, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::client_state::timer::Timer;
use crate::server::proxy::http::flaw::Flaw;
use crate::server::proxy::http::hop_by_hop::requested_upgrade;
use crate::server::proxy::http::page::Page;
use crate::server::proxy::upstream::checkout::{Checkout, ConnectError, Requirements, checkout};
use crate::server::proxy::upstream::dial::CONNECT_TIMEOUT;
use crate::server::proxy::upstream::refusal::is_unprocessed;
use crate::server::proxy::upstream::request_body::{RequestBody, UploadProgress};
use crate::server::routing::{MemberId, Settings};

use super::answer::Answer;
use super::assignment::Assignment;
use super::guard::{self, First, Found, Permitted};
use super::outgoing::OutgoingRequest;
use super::record::{Record, Turn};
use super::redial::{self, MAX_CONNECTING};
use super::response::BackendResponse;
use super::{auth, sticky, wait, wait_for_claim};

/// How long the backend keeps idle connections.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How often a request is sent again that a member has not looked at.
const MAX_REFUSALS: usize = 3;
/// How many members a request is given to. All but two of them must have left meanwhile.
const MAX_MEMBERS: usize = 16;

/// A request that may go to a backend.
pub(super) struct Exchange {
    client: Rc<ClientConnection>,
    first: First,
    outgoing: OutgoingRequest,
    /// The client's side of the upgrade that it asks for.
    upgrade: Option<OnUpgrade>,
}

/// Why an attempt brought no response.
enum Failure {
    /// An open connection was closed, which says nothing about the member. The request can be sent again.
    Stale,
    /// Nobody accepts connections at the member's address, and requests wait for it. Nothing was sent.
    CannotConnect,
    /// The member could not be reached, or it broke the connection. The request can be sent again.
    Member(Page),
    /// The member is there, but has not looked at the request. It can be sent again. `on_new`: on a new connection.
    Refused { on_new: bool },
    /// The response's head has more lines than the connection takes. The request can be sent again.
    LongHead,
    /// The request cannot be sent again.
    Final(Page),
}

impl Exchange {
    pub(super) fn prepare(
        client: Rc<ClientConnection>,
        mut request: Request<Incoming>,
        record: &mut Record,
    ) -> Result<Self, Answer> {
        let Permitted { host, first } = guard::check(&client, &request, record)?;
        let protocol = requested_upgrade(request.headers()).filter(|_| request.version() == Version::HTTP_11);
        let upgrade = protocol.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let outgoing = OutgoingRequest::new(&client, request, host, protocol, record.now());
        Ok(Exchange { client, first, outgoing, upgrade })
    }

    /// Gives the request to one member after another until one answers.
    pub(super) async fn run(&mut self, record: &mut Record) -> Result<BackendResponse, Answer> {
        let mut assignment = match self.first_member(record).await? {
            Some(first) => first,
            None => self.wait_for_member(None, record).await?,
        };
        if let Some(limit) = assignment.body_limit()
            && self.outgoing.limit_body(limit.get())
        {
            return Err(Page::BodyTooLong.into());
        }
        record.upload_begins(self.outgoing.upload());
        let mut tried = None;
        for _ in 0..MAX_MEMBERS {
            let id = assignment.member().id;
            record.set_cookie(sticky::set_cookie(
                &self.client,
                &assignment,
                self.outgoing.request().headers(),
            ));
            let page = match self.ask(&mut record.assign(assignment)).await {
                Ok(response) => return Ok(response),
                Err(Failure::CannotConnect) => {
                    record.unassign();
                    assignment = self.wait_for_member(tried, record).await?;
                    continue;
                }
                Err(Failure::Member(page)) => page,
                Err(Failure::Final(page)) => return Err(page.into()),
                Err(Failure::Stale | Failure::Refused { .. } | Failure::LongHead) => {
                    return Err(Page::Unreachable.into());
                }
            };
            assignment = if record.unassign() {
                // The member has left, which is not a failure.
                self.wait_for_member(tried, record).await?
            } else if tried.replace(id).is_none() {
                let next = self.wait_for_member(tried, record).await;
                next.map_err(|none| if none == Page::Maintenance { none } else { page })?
            } else {
                return Err(page.into());
            };
        }
        Err(Page::Unreachable.into())
    }

    /// The member that gets the request first; `None`: its claim has no usable member now.
    async fn first_member(&mut self, record: &mut Record) -> Result<Option<Assignment>, Answer> {
        // Boxed, because the futures are large and seldom needed.
        let found = match std::mem::replace(&mut self.first, First::Found(Found::NoMember)) {
            First::Found(found) => found,
            First::NoClaim(address) => {
                let found = wait_for_claim::for_member(&self.client, &self.outgoing, address, record);
                Box::pin(found).await?
            }
        };
        match found {
            Found::Member(first) => Ok(Some(first)),
            Found::NoMember => Ok(None),
            Found::MustAsk(claim) => {
                Box::pin(auth::check(&self.client, &claim, &mut self.outgoing)).await?;
                record.set_now(Instant::now());
                Ok(None)
            }
        }
    }

    async fn wait_for_member(
        &self,
        tried: Option<MemberId>,
        record: &mut Record,
    ) -> Result<Assignment, Page> {
        // Boxed, because the future is large and seldom needed.
        let assignment = Box::pin(wait::for_member(&self.client, &self.outgoing, tried)).await;
        record.set_now(Instant::now());
        assignment
    }

    /// Asks the member on an open connection if there is one, and on a new one if that turns out to be closed.
    async fn ask(&mut self, turn: &mut Turn<'_>) -> Result<BackendResponse, Failure> {
        let member = turn.assignment.member();
        if self.outgoing.is_upgrade() && !member.terms.settings.websocket {
            return Err(Failure::Final(Page::UpgradeNotAllowed));
        }
        self.outgoing.address_to(member, turn.assignment.claim()).map_err(Failure::Final)?;
        let mut must_be_new = false;
        for _ in 0..MAX_REFUSALS {
            match self.attempt(must_be_new, turn).await {
                Err(Failure::Stale) if !must_be_new => must_be_new = true,
                Err(Failure::LongHead) => must_be_new = true,
                Err(Failure::Refused { on_new }) => must_be_new = !on_new,
                other => return other,
            }
        }
        match self.attempt(must_be_new, turn).await {
            Err(Failure::Refused { .. }) => {
                turn.assignment.connection_failed(&self.client.context.proxy.table);
                Err(Failure::Member(Page::Unreachable))
            }
            other => other,
        }
    }

    /// Sends the request on one connection and waits for the head of the response.
    async fn attempt(&mut self, must_be_new: bool, turn: &mut Turn<'_>) -> Result<BackendResponse, Failure> {
        let Checkout { mut connection, reused_after } = self.connection(must_be_new, turn).await?;
        let Settings { compression, timeout, .. } = turn.assignment.member().terms.settings;
        let accepted = compression.then(|| self.outgoing.accepted_coding());
        let upload = self.outgoing.upload();
        let spare = self.outgoing.spare(connection.can_refuse(), &self.client.context.proxy.buffered);
        let request = self.outgoing.take();
        connection.read_in_parts(self.client.is_http2());
        // Taking an open connection takes no time.
        let started = if reused_after.is_some() { turn.now } else { Instant::now() };
        turn.timer.set(started + timeout);
        let head = {
            let head = pin!(connection.send(request, self.outgoing.is_upgrade()));
            wait_for_head(head, timeout, turn.timer, upload.clone()).await
        };
        if let Err(Page::ResponseTimeout) = head {
            turn.assignment.response_failed();
        }
        match head.map_err(Failure::Final)? {
            Ok(response) => {
                turn.assignment.answered(response.status(), &self.client.context.proxy.table);
                if let Some(field) = response.headers().get(KEEP_ALIVE) {
                    let (pool, member) = (&self.client.context.pool, turn.assignment.member().id);
                    pool.keep_alive_said(member, field, turn.now);
                }
                if let Some(spare) = spare {
                    spare.forget();
                }
                Ok(BackendResponse { response, connection, idle_timeout: timeout, accepted })
            }
            Err(_) if upload.as_ref().is_some_and(|upload| upload.is_too_long()) => {
                Err(Failure::Final(Page::BodyTooLong))
            }
            Err(error) if error.error().is_user() && upload.is_some_and(|upload| upload.has_failed()) => {
                Err(Failure::Final(Page::BadRequest("The request's body could not be read.")))
            }
            Err(mut error) => {
                let is_unprocessed = is_unprocessed(error.error());
                let again = error.take_message().or_else(|| spare?.again(is_unprocessed));
                let error = error.into_error();
                if is_unprocessed && let Some(again) = again {
                    tracing::debug!(%error, "a request was refused unread");
                    self.outgoing.put_back(again);
                    return Err(Failure::Refused { on_new: reused_after.is_none() });
                }
                if error.is_parse_too_large() && !connection.takes_long_heads() {
                    turn.assignment.member().load.needs_long_heads();
                    if let Some(again) = again {
                        self.outgoing.put_back(again);
                        return Err(Failure::LongHead);
                    }
                }
                Err(self.failure(&error, again, reused_after, turn.assignment))
            }
        }
    }

    /// Gets a connection to the member.
    async fn connection(&self, must_be_new: bool, turn: &Turn<'_>) -> Result<Checkout, Failure> {
        let (context, member) = (&self.client.context, turn.assignment.member());
        let is_held = turn.assignment.hold().is_some();
        let patience = if is_held { MAX_CONNECTING } else { CONNECT_TIMEOUT };
        let (is_upgrade, is_repeatable) = (self.outgoing.is_upgrade(), self.outgoing.is_repeatable());
        let requirements = Requirements { is_upgrade, must_be_new, is_repeatable, patience };
        let (from, request) = ((&context.pool, &context.dialer), self.outgoing.request());
        checkout(from, member, request, requirements, turn.now).await.map_err(|error| {
            tracing::debug!(instance = %member.terms.instance, backend = %member.backend, %error, "cannot connect");
            if let ConnectError::NoUpgrade = error {
                return Failure::Final(Page::UpgradeNotAllowed);
            }
            // Whoever made the connection that others waited for has counted its failure.
            let is_shared = matches!(error, ConnectError::SharedFailed);
            if !is_shared {
                turn.assignment.connection_failed(&context.proxy.table);
            }
            if is_held && error.is_unreachable() {
                redial::cannot_connect(context, member);
                return Failure::CannotConnect;
            }
            if is_held && is_shared && member.load.is_unreachable() {
                return Failure::CannotConnect;
            }
            Failure::Member(Page::Unreachable)
        })
    }

    /// Reports an error on a connection and tells what it means for the request. `again`: the request, if it can be
    /// sent again.
    fn failure(
        &mut self,
        error: &hyper::Error,
        again: Option<Request<RequestBody>>,
        reused_after: Option<Duration>,
        assignment: &Assignment,
    ) -> Failure {
        tracing::debug!(%error, reused = reused_after.is_some(), "a request was not answered");
        // What comes first on a connection that had a request before may be left over from its response.
        let flaw = Flaw::of(error);
        if let Some(flaw) = flaw
            && !(reused_after.is_some() && again.is_some())
        {
            assignment.response_invalid(flaw);
            return Failure::Final(Page::InvalidResponse(flaw));
        }
        match reused_after {
            // An HTTP/2 connection that has streams was not idle.
            Some(idle) if flaw.is_none() && !idle.is_zero() => {
                let (pool, member) = (&self.client.context.pool, assignment.member().id);
                pool.closed_under_request(member, idle, Instant::now());
            }
            Some(_) => {}
            None => assignment.connection_failed(&self.client.context.proxy.table),
        }
        match again {
            None => Failure::Final(Page::Unreachable),
            Some(request) => {
                self.outgoing.put_back(request);
                if reused_after.is_some() { Failure::Stale } else { Failure::Member(Page::Unreachable) }
            }
        }
    }

    pub(super) fn into_upgrade(self) -> Option<OnUpgrade> {
        self.upgrade
    }
}

/// Waits for the head of a response until `timer` fires, or until `timeout` after the client last sent a part of the
/// body.
async fn wait_for_head<F: Future>(
    mut head: Pin<&mut F>,
    timeout: Duration,
    timer: &mut Timer,
    upload: Option<Rc<UploadProgress>>,
) -> Result<F::Output, Page> {
    poll_fn(|cx| {
        if let Poll::Ready(head) = head.as_mut().poll(cx) {
            return Poll::Ready(Ok(head));
        }
        while timer.poll(cx).is_ready() {
            let Some(upload) = &upload else { return Poll::Ready(Err(Page::ResponseTimeout)) };
            let deadline = upload.last_received() + timeout;
            if deadline <= Instant::now() {
                let is_clients_fault = upload.waits_for_client();
                return Poll::Ready(Err(if is_clients_fault {
                    Page::RequestTimeout
                } else {
                    Page::ResponseTimeout
                }));
            }
            timer.set(deadline);
        }
        Poll::Pending
    })
    .await
}
