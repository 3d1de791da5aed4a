//! The task that owns the socket and the timers. It gives what happens to the state machine and carries out what that
//! returns; it decides nothing.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::codec::{Encoder, FramedRead};

use super::connect::{Connector, is_gone};
use super::error::CallError;
use super::event::{Cause, Event};
use super::intent::Goal;
use super::session::{Effect, Received, Session, Ticket};
use super::status::Status;
use crate::protocol::{
    Command, EventKind, Line, LineCodec, MAX_CLIENT_LINE, MAX_LINE, Reply, Request, ServerLine,
    looks_like_http,
};

/// What a handle asks the task to do.
#[derive(Debug)]
pub(super) enum TaskRequest {
    /// A command whose reply somebody waits for.
    Call(Request, CallReply),
    /// SUBSCRIBE, or UNSUBSCRIBE.
    Subscribe(EventKind, bool),
    /// Register although the name was taken; answered once the status shows it.
    TakeOver(oneshot::Sender<()>),
    /// This host has other addresses than before.
    NetworkChanged,
}

pub(super) type CallReply = oneshot::Sender<Result<Reply, CallError>>;

/// What a handle holds the other ends of.
pub(super) struct Inputs {
    pub(super) goal: watch::Receiver<Goal>,
    pub(super) leave: watch::Receiver<bool>,
    pub(super) requests: mpsc::Receiver<TaskRequest>,
    /// The task knows that it is to leave.
    pub(super) left: bool,
}

/// How often the task looks whether this host still has the address of its connection, while a reply is due. A connection
/// without it looks like one whose peer is slow.
const LOOK: Duration = Duration::from_secs(1);

/// The machine with everything that it is told and tells.
pub(super) struct Driver<C> {
    pub(super) connector: C,
    pub(super) core: Core,
    pub(super) inputs: Inputs,
}

/// The machine, and where its effects go.
pub(super) struct Core {
    session: Session,
    events: broadcast::Sender<Arc<Event>>,
    status: watch::Sender<Status>,
    published: u64,
    calls: HashMap<Ticket, CallReply>,
    tickets: u64,
    /// Lines that are not on the wire yet: the machine bounds how many commands wait for a reply.
    outgoing: BytesMut,
    want: Want,
}

/// What the machine wants of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Nothing,
    Dial { attempt: u32 },
    Link,
}

/// What woke the task beside the network.
enum Wake {
    Tick,
    Goal(Goal),
    Request(TaskRequest),
    Leave,
}

impl<C: Connector> Driver<C> {
    /// Until the machine has stopped.
    pub(super) async fn run(mut self) {
        self.core.tick();
        while !self.core.session.is_stopped() {
            match self.core.want {
                Want::Dial { attempt } => self.dial(attempt).await,
                // Only a dial that succeeded gives a link, and `dial` serves it.
                Want::Nothing | Want::Link => {
                    let wake = self.inputs.wake(self.core.session.deadline()).await;
                    self.core.wake(wake);
                }
            }
        }
    }

    async fn dial(&mut self, attempt: u32) {
        let dialling = Want::Dial { attempt };
        let connected = {
            let mut connecting = pin!(self.connector.connect(attempt));
            loop {
                tokio::select! {
                    connected = &mut connecting => break connected,
                    wake = self.inputs.wake(self.core.session.deadline()) => {
                        let is_other_network = wake.is_change_of_network();
                        self.core.wake(wake);
                        if is_other_network {
                            // The same attempt, from an address that this host still has.
                            return;
                        }
                    }
                }
                if self.core.want != dialling {
                    return;
                }
            }
        };
        match connected {
            Ok((stream, peer)) => self.serve(stream, peer).await,
            Err(error) => {
                self.core.want = Want::Nothing;
                self.core.step(|session, now| session.link_failed(error, now));
            }
        }
    }

    async fn serve(&mut self, stream: C::Stream, peer: SocketAddr) {
        let local_ip = C::local_ip(&stream);
        let (reader, mut writer) = tokio::io::split(stream);
        let mut lines = FramedRead::new(reader, LineCodec::new(MAX_CLIENT_LINE));
        let core = &mut self.core;
        core.outgoing.clear();
        core.want = Want::Link;
        core.step(|session, now| session.link_up(peer, now));
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while core.want == Want::Link {
            let deadline = core.session.deadline();
            tokio::select! {
                line = next_line(&mut lines) => core.received(line),
                written = writer.write(&core.outgoing), if !core.outgoing.is_empty() => core.written(written),
                wake = self.inputs.wake(deadline) => {
                    let may_be_gone = wake.is_change_of_network();
                    core.wake(wake);
                    if may_be_gone {
                        core.look_at(local_ip);
                    }
                }
                _ = look.tick(), if local_ip.is_some() && core.session.awaits_reply() => core.look_at(local_ip),
            }
        }
        // What is still to be sent is of no use to a peer that was given up.
        core.outgoing.clear();
    }
}

impl Inputs {
    /// The next input that does not come from the network. Cancel safe.
    async fn wake(&mut self, deadline: Option<Instant>) -> Wake {
        tokio::select! {
            biased;
            // An error is the last handle's end: leave as if asked to. Once is enough.
            _ = self.leave.wait_for(|leave| *leave), if !self.left => {
                self.left = true;
                Wake::Leave
            }
            Ok(()) = self.goal.changed() => Wake::Goal(self.goal.borrow_and_update().clone()),
            Some(ask) = self.requests.recv() => Wake::Request(ask),
            () = sleep_until(deadline) => Wake::Tick,
        }
    }
}

impl Wake {
    fn is_change_of_network(&self) -> bool {
        matches!(self, Wake::Request(TaskRequest::NetworkChanged))
    }
}

impl Core {
    pub(super) fn new(
        session: Session,
        events: broadcast::Sender<Arc<Event>>,
        status: watch::Sender<Status>,
    ) -> Self {
        Core {
            session,
            events,
            status,
            published: 0,
            calls: HashMap::new(),
            tickets: 0,
            outgoing: BytesMut::new(),
            want: Want::Nothing,
        }
    }

    fn tick(&mut self) {
        self.step(Session::tick);
    }

    fn wake(&mut self, wake: Wake) {
        match wake {
            Wake::Tick => self.tick(),
            Wake::Leave => self.step(Session::leave),
            Wake::Goal(goal) => self.step(|session, now| session.want(goal, now)),
            Wake::Request(TaskRequest::TakeOver(done)) => {
                self.step(Session::take_over);
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Wake::Request(TaskRequest::NetworkChanged) => self.step(Session::network_changed),
            Wake::Request(TaskRequest::Subscribe(kind, on)) => {
                self.step(|session, now| session.subscribe(kind, on, now));
            }
            Wake::Request(TaskRequest::Call(request, reply)) => {
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                self.calls.insert(ticket, reply);
                self.step(|session, now| session.call(ticket, request, now));
            }
        }
    }

    fn received(&mut self, line: Option<Result<Line, io::Error>>) {
        match line {
            Some(Ok(line)) => {
                tracing::debug!(line = %shown(&line), "received");
                let received = Received::from(line);
                self.step(|session, now| session.receive(received, now));
            }
            Some(Err(error)) => self.down(Cause::Broken(error.to_string())),
            None => self.down(Cause::Closed),
        }
    }

    fn written(&mut self, written: io::Result<usize>) {
        match written {
            Ok(count) if count > 0 => self.outgoing.advance(count),
            // The reader is about to meet the end as well, and maybe before it the reason: a refusal, or a
            // page of HTML.
            failed => {
                tracing::debug!(?failed, "write failed");
                self.outgoing.clear();
            }
        }
    }

    /// Gives the connection up if this host no longer has the address that it was made from, and makes another at once.
    fn look_at(&mut self, local_ip: Option<IpAddr>) {
        if let Some(ip) = local_ip.filter(|ip| is_gone(*ip)) {
            self.down(Cause::OwnAddressGone(ip));
            self.step(Session::network_changed);
        }
    }

    fn down(&mut self, cause: Cause) {
        self.want = Want::Nothing;
        self.step(|session, now| session.link_down(cause, now));
    }

    /// Tells the machine something, and does what it wants done about it.
    fn step(&mut self, tell: impl FnOnce(&mut Session, Instant)) {
        tell(&mut self.session, tokio::time::Instant::now().into_std());
        for effect in self.session.take_effects() {
            match effect {
                Effect::Dial { attempt } => self.want = Want::Dial { attempt },
                Effect::Hangup => self.want = Want::Nothing,
                Effect::Send(command) => self.push(&command),
                // It fails where nobody listens, which is no failure.
                Effect::Event(event) => drop(self.events.send(Arc::new(event))),
                Effect::Answer(ticket, result) => {
                    if let Some(reply) = self.calls.remove(&ticket) {
                        // Whoever asked may have gone.
                        drop(reply.send(result));
                    }
                }
            }
        }
        if std::mem::replace(&mut self.published, self.session.version()) != self.session.version() {
            let status = self.session.status();
            self.status.send_if_modified(|shown| {
                let changed = *shown != status;
                *shown = status;
                changed
            });
        }
    }

    fn push(&mut self, command: &Command) {
        tracing::debug!(line = %command.redacted(), "sent");
        let line = command.encode();
        let encoded = match line.len() {
            0..=MAX_LINE => LineCodec::new(MAX_LINE).encode(line.as_str(), &mut self.outgoing),
            _ => Err(io::Error::other("it is longer than any server reads")),
        };
        if let Err(error) = encoded {
            // Values are validated and the machine measures what it sends, so this cannot be; the deadline of
            // the command will tell.
            tracing::error!(%error, "a command that is no line");
        }
    }
}

/// What to show of a line in a log: as it came, without the session's id, which is a secret.
fn shown(line: &Line) -> String {
    let text = match line {
        Line::TooLong => return "(too long)".to_owned(),
        Line::NotUtf8 => return "(bytes that are no UTF-8)".to_owned(),
        Line::Text(text) => text,
    };
    if text.starts_with("ACK|") {
        return "ACK|[redacted]".to_owned();
    }
    const ID: &str = "\"session_id\"";
    let value = text.find(ID).and_then(|at| {
        let behind = at + ID.len();
        let begin = behind + text[behind..].find('"')? + 1;
        // One that does not end is hidden to the end of the line.
        let end = text[begin..].find('"').map_or(text.len(), |length| begin + length);
        Some((begin, end))
    });
    match value {
        Some((begin, end)) => format!("{}[redacted]{}", &text[..begin], &text[end..]),
        // One that cannot be found may stand there all the same.
        None if text.starts_with("SESSION_OK|") => "SESSION_OK|[redacted]".to_owned(),
        None => text.clone(),
    }
}

impl From<Line> for Received {
    fn from(line: Line) -> Self {
        match line {
            Line::TooLong => Received::TooLong,
            Line::NotUtf8 => Received::Garbage("bytes that are no UTF-8".to_owned()),
            Line::Text(text) if looks_like_http(&text) => Received::Http,
            Line::Text(text) => match ServerLine::parse(&text) {
                Ok(line) => Received::Line(line),
                // It may hold a malformed session id, which is a secret all the same.
                Err(_) if text.starts_with("ACK|") => Received::Garbage("ACK|[redacted]".to_owned()),
                Err(error) => Received::Garbage(error.0),
            },
        }
    }
}

/// The next line; `None` at the end of the stream. Cancel safe.
async fn next_line<R: AsyncRead + Unpin>(
    lines: &mut FramedRead<R, LineCodec>,
) -> Option<Result<Line, io::Error>> {
    poll_fn(|context| Pin::new(&mut *lines).poll_next(context)).await
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_as_it_came_but_for_the_sessions_id() {
        let shown = |text: &str| shown(&Line::Text(text.to_owned()));
        let order = r#"ROUTE_LIST_OK|[{"b":1,"a":2.50}]"#;
        assert_eq!(shown(order), order, "neither sorted nor filled up");
        assert_eq!(shown("ACK|horse"), "ACK|[redacted]");
        let info = r#"SESSION_OK|{"x":1,"session_id" : "horse","y":2}"#;
        assert_eq!(shown(info), r#"SESSION_OK|{"x":1,"session_id" : "[redacted]","y":2}"#);
        for broken in
            [r#"SESSION_OK|{"session_id":"horse"#, "SESSION_OK|horse", r#"SESSION_OK|{"session_id":"#]
        {
            assert!(!shown(broken).contains("horse"), "{broken}");
        }
    }
}
