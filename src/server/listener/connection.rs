//! One peer's connection: its lines to the registry, the registry's lines to it, and the limits on both.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf, BytesMut};
use registry_client::protocol::{
    Command, Line, LineCodec, MAX_CLIENT_LINE, MAX_LINE, Push, Refusal, Reply, Request, ServerLine,
    looks_like_http,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::codec::{Decoder, Encoder};
use tracing::{debug, enabled};

use crate::server::registry::{ConnId, Keepalive};

use super::message::Message;
use super::outgoing::{Events, Outlet, ToConnection};

/// How many bytes are read at once, or as many as there are of an incomplete line if that is more. It is small because
/// the buffer stays allocated, and most peers send little at a time.
const READ: usize = 1024;
/// How many commands of a connection may be without an answer. With as many, the connection is not read from.
const UNANSWERED: usize = 128;
/// A peer that leaves this many bytes unread is not read from either.
const UNREAD: usize = 64 * 1024;
/// The connection of a peer that leaves this many bytes unread is closed. One compressed list fits, with a short reply to
/// each other command.
const MOST_UNREAD: usize = 2 * MAX_CLIENT_LINE;
/// How many lines may wait besides replies: verdicts on the connection's maintenance requests, of which the registry
/// allows 64, and the last lines before a close.
const PUSHES: usize = 72;
/// The connection of a peer that has not read a byte for this long is closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection stays open for a verdict on maintenance after the peer has sent EOF. A verdict takes 60 s at
/// most.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(65);
/// How long a peer has to close its side once we have closed ours.
const LINGER: Duration = Duration::from_secs(1);

pub(super) struct Connection {
    id: ConnId,
    peer: IpAddr,
    codec: LineCodec,
    input: BytesMut,
    output: BytesMut,
    /// How many commands were passed on and have no reply yet.
    unanswered: usize,
    most_unanswered: usize,
    /// The last of them may have a long reply. The next command is passed on when that was sent and read.
    awaits_long_reply: bool,
    /// The peer has sent EOF.
    finished: bool,
    /// Until when the connection then stays open for verdicts.
    verdicts_until: Option<Instant>,
    /// How many verdicts on maintenance are still to come.
    verdicts: usize,
    /// The peer has sent REGISTER or RECONNECT, so a session is lost when the connection ends.
    binds: bool,
    /// The next line is the first.
    is_first_line: bool,
    /// Since when nothing could be written.
    stuck_since: Option<Instant>,
    /// Its events, once there has been one.
    events: Option<Events>,
    /// The session that was bound here last, for its PINGs.
    keepalive: Option<Arc<Keepalive>>,
    warnings: mpsc::Sender<IpAddr>,
}

impl Connection {
    pub(super) fn new(id: ConnId, peer: IpAddr, queue: usize, warnings: mpsc::Sender<IpAddr>) -> Self {
        Connection {
            id,
            peer,
            codec: LineCodec::new(MAX_LINE),
            input: BytesMut::new(),
            output: BytesMut::new(),
            unanswered: 0,
            awaits_long_reply: false,
            most_unanswered: UNANSWERED.min(queue.max(1)),
            finished: false,
            verdicts_until: None,
            verdicts: 0,
            binds: false,
            is_first_line: true,
            stuck_since: None,
            events: None,
            keepalive: None,
            warnings,
        }
    }

    /// Serves the peer until one side is done.
    pub(super) async fn run(mut self, mut stream: TcpStream, inbox: mpsc::Sender<Message>) {
        // A command may lead to a reply and to a session for PINGs.
        let (to_us, mut lines) = mpsc::channel(2 * self.most_unanswered + PUSHES);
        if inbox.send(Message::Opened(self.id, self.peer, Outlet::Own(to_us))).await.is_err() {
            return;
        }
        let served = self.serve(&mut stream, &inbox, &mut lines).await;
        // An error means that the registry has ended, and the server with it.
        let _ = inbox.send(Message::Closed(self.id)).await;
        drop(inbox);
        match served {
            Ok(()) => linger(stream).await,
            Err(error) => debug!(conn = self.id.0, peer = %self.peer, %error, "connection broken"),
        }
    }

    async fn serve(
        &mut self,
        stream: &mut TcpStream,
        inbox: &mpsc::Sender<Message>,
        lines: &mut mpsc::Receiver<ToConnection>,
    ) -> io::Result<()> {
        let (mut reader, writer) = stream.split();
        let mut batch = Vec::new();
        let mut open = true;
        while open || !self.output.is_empty() {
            let wants_input = open && self.pass_on(inbox).await?;
            self.write(&writer)?;
            if self.finished
                && wants_input
                && self.unanswered == 0
                && self.output.is_empty()
                && !self.waits_for_verdicts()
            {
                return Ok(());
            }
            let may_read = wants_input && !self.finished;
            if may_read {
                self.input.reserve(READ.max(self.input.len()));
            }
            let may_tell = open && self.output.len() < UNREAD;
            tokio::select! {
                biased;
                count = lines.recv_many(&mut batch, UNANSWERED), if open => {
                    // None: the registry has closed the connection.
                    open = count > 0;
                    self.encode(&mut batch)?;
                    self.write(&writer)?;
                }
                count = reader.read_buf(&mut self.input), if may_read => self.finished = count? == 0,
                event = next_event(&mut self.events), if may_tell => {
                    self.encode_event(&event)?;
                    self.write(&writer)?;
                }
                ready = writer.ready(Interest::WRITABLE), if !self.output.is_empty() => {
                    ready?;
                    self.write(&writer)?;
                }
                () = sleep_until(self.verdicts_until) => return Ok(()),
                () = sleep_until(self.stuck_since.map(|since| since + WRITE_TIMEOUT)) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read"));
                }
            }
        }
        Ok(())
    }

    /// Whether the connection stays open for a verdict after the peer has sent EOF. It does for a script that uses one
    /// connection for each command. It does not if a session is bound here, so that its loss is noticed at once.
    fn waits_for_verdicts(&mut self) -> bool {
        let waits = self.verdicts > 0 && !self.binds;
        if waits && self.verdicts_until.is_none() {
            self.verdicts_until = Some(Instant::now() + VERDICT_TIMEOUT);
        }
        waits
    }

    /// Passes complete lines on, as many as may be without an answer, and answers PINGs. Returns true if more lines could be
    /// passed on than were read.
    async fn pass_on(&mut self, inbox: &mpsc::Sender<Message>) -> io::Result<bool> {
        if self.output.len() >= UNREAD || self.awaits_long_reply {
            return Ok(false);
        }
        let (mut first, mut more) = (None, Vec::new());
        let wants_input = loop {
            if self.unanswered >= self.most_unanswered {
                break false;
            }
            let Some(line) = self.next_line()? else { break true };
            self.refuse_http(&line)?;
            // Some clients acknowledge verdicts, because the documentation of the reference server says so.
            if matches!(&line, Line::Text(text) if text == "ACK" || text.starts_with("ACK|")) {
                continue;
            }
            let command = self.parse(&line);
            if self.unanswered == 0 && self.is_answered_here(&command) {
                self.encode_reply(&ServerLine::Reply(Reply::Pong))?;
                continue;
            }
            self.unanswered += 1;
            self.awaits_long_reply =
                matches!(&command, Ok(Command::Request(_, request)) if has_long_reply(request));
            if first.is_none() {
                first = Some(command)
            } else {
                more.push(command)
            }
            if self.awaits_long_reply {
                break false;
            }
        };
        let Some(first) = first else { return Ok(wants_input) };
        let message = if more.is_empty() {
            Message::Line(self.id, first)
        } else {
            more.insert(0, first);
            Message::Lines(self.id, more)
        };
        let ended = |_| io::Error::other("the registry has ended");
        inbox.send(message).await.map_err(ended)?;
        Ok(wants_input)
    }

    /// Whether the command is a PING that is answered here.
    fn is_answered_here(&self, command: &Result<Command, Refusal>) -> bool {
        let (Some(keepalive), Ok(command)) = (&self.keepalive, command) else { return false };
        keepalive.answers(command, SystemTime::now)
    }

    /// Refuses HTTP requests: a well-known proxy has its admin page on port 81 too.
    fn refuse_http(&mut self, line: &Line) -> io::Result<()> {
        let is_first_line = std::mem::take(&mut self.is_first_line);
        if is_first_line && matches!(line, Line::Text(text) if looks_like_http(text)) {
            // If the channel is full there are enough warnings already.
            let _ = self.warnings.try_send(self.peer);
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer speaks HTTP"));
        }
        Ok(())
    }

    fn encode(&mut self, lines: &mut Vec<ToConnection>) -> io::Result<()> {
        for line in lines.drain(..) {
            let line = match line {
                ToConnection::Line(line) => line,
                ToConnection::Events(events) => {
                    self.events = Some(*events);
                    continue;
                }
                ToConnection::Bound(keepalive) => {
                    self.keepalive = Some(keepalive);
                    continue;
                }
            };
            self.count(&line);
            self.encode_reply(&line)?;
        }
        Ok(())
    }

    fn encode_reply(&mut self, line: &ServerLine) -> io::Result<()> {
        if enabled!(tracing::Level::DEBUG) {
            debug!(conn = self.id.0, peer = %self.peer, line = %line.redacted(), "sent");
        }
        self.codec.encode(&line.encode(), &mut self.output)?;
        if self.output.len() > MOST_UNREAD {
            return Err(io::Error::other("the peer asks for more than it reads"));
        }
        Ok(())
    }

    fn count(&mut self, line: &ServerLine) {
        match line {
            ServerLine::Reply(reply) => {
                self.unanswered = self.unanswered.saturating_sub(1);
                self.awaits_long_reply &= self.unanswered > 0;
                self.verdicts += usize::from(*reply == Reply::MaintenanceAck);
            }
            ServerLine::Push(
                Push::MaintenanceOk(_)
                | Push::PageTimeout
                | Push::BackendTimeout
                | Push::MaintenanceSuperseded,
            ) => self.verdicts = self.verdicts.saturating_sub(1),
            ServerLine::Push(_) => {}
        }
    }

    /// Encodes an event. It is logged as it is, because it contains neither an id nor a token.
    fn encode_event(&mut self, line: &str) -> io::Result<()> {
        debug!(conn = self.id.0, peer = %self.peer, line, "sent");
        self.codec.encode(line, &mut self.output)
    }

    fn write(&mut self, writer: &WriteHalf<'_>) -> io::Result<()> {
        while !self.output.is_empty() {
            match writer.try_write(&self.output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.output.advance(count);
                    self.stuck_since = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stuck_since.get_or_insert_with(Instant::now);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn next_line(&mut self) -> io::Result<Option<Line>> {
        if self.finished {
            self.codec.decode_eof(&mut self.input)
        } else {
            self.codec.decode(&mut self.input)
        }
    }

    fn parse(&mut self, line: &Line) -> Result<Command, Refusal> {
        let parsed = match line {
            Line::Text(text) => Command::parse(text),
            Line::TooLong => Err(Refusal::LineTooLong),
            Line::NotUtf8 => Err(Refusal::InvalidFormat),
        };
        self.binds |= matches!(parsed, Ok(Command::Register(_) | Command::Reconnect(_)));
        if enabled!(tracing::Level::DEBUG) {
            match &parsed {
                Ok(command) => {
                    debug!(conn = self.id.0, peer = %self.peer, line = %command.redacted(), "received")
                }
                // A line that is no command may contain a secret anywhere.
                Err(why) => {
                    debug!(conn = self.id.0, peer = %self.peer, %why, "received a line that is no command")
                }
            }
        }
        parsed
    }
}

/// Sends EOF and waits for the peer's. To close with unread input would send a reset, which can overtake the last lines.
async fn linger(mut stream: TcpStream) {
    let rest = async {
        stream.shutdown().await?;
        let mut left = UNREAD;
        while left > 0 {
            stream.readable().await?;
            // The buffer does not live across the wait, or it would be part of every connection's task.
            match stream.try_read(&mut [0; 1024]) {
                Ok(0) => break,
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        io::Result::Ok(())
    };
    // The connection is over either way.
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// Whether the reply may be as long as a line may be, or another line comes with it. All other replies are short, or as
/// long as the session's metadata.
fn has_long_reply(request: &Request) -> bool {
    matches!(
        request,
        Request::RouteList { .. }
            | Request::RouteAddBulk(_)
            | Request::ConfigDiff
            | Request::StatsGet(_)
            | Request::StatsPage { .. }
            | Request::MaintEnter { .. }
            | Request::MaintExit(_)
            | Request::MaintStatus
            | Request::MaintStatusPage { .. }
    )
}

async fn next_event(events: &mut Option<Events>) -> Arc<str> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
