//! One peer: its lines to the registry, the registry's lines to it, and what that may cost.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::codec::{Decoder, Encoder};
use tracing::{debug, enabled};

use crate::server::registry::{ConnId, Pulse};
use registry_client::protocol::{
    Command, Line, LineCodec, MAX_CLIENT_LINE, MAX_LINE, Push, Refusal, Reply, Request, ServerLine,
    looks_like_http,
};

use super::message::Message;
use super::outgoing::{Events, ToPeer};

/// How much is read at once, and as much again as has come of a line that is longer. Most peers say little at a time,
/// and the room for it is kept.
const READ: usize = 1024;
/// How many commands of a connection may be without an answer; it is not read from while there are.
const UNANSWERED: usize = 128;
/// A peer that leaves this much unread is not read from either.
const UNREAD: usize = 64 * 1024;
/// A peer that leaves this much unread is closed. One compressed list fits, and a short reply to each other command.
const MOST_UNREAD: usize = 2 * MAX_CLIENT_LINE;
/// Lines that may wait besides the replies: the verdicts on the maintenance requests of a connection, of which the
/// registry takes 64 at once, and what is said at its end.
const PUSHES: usize = 72;
/// A peer that has not read a byte for this long is closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a peer that has said all it wants is waited with for a verdict on maintenance, which may take 60 s.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(65);
/// How long a peer has to close its side once we have closed ours.
const LINGER: Duration = Duration::from_secs(1);

pub(super) struct Connection {
    id: ConnId,
    peer: IpAddr,
    codec: LineCodec,
    input: BytesMut,
    output: BytesMut,
    /// Commands that were passed on and have no reply.
    unanswered: usize,
    most_unanswered: usize,
    /// The last of them may be answered with much: the next is passed on when that was answered, and read.
    expects_much: bool,
    /// The peer has sent all it wants.
    finished: bool,
    /// Until when it is waited with for a verdict all the same.
    patient_until: Option<Instant>,
    /// Verdicts on maintenance that are still to come.
    verdicts: usize,
    /// It asked for a session of its own, which is lost with its end.
    binds: bool,
    /// No line was read yet.
    fresh: bool,
    /// Since when nothing could be written.
    stuck_since: Option<Instant>,
    /// What it has subscribed to, once there was some of it.
    events: Option<Events>,
    /// The session that it had last.
    pulse: Option<Arc<Pulse>>,
    complaints: mpsc::Sender<IpAddr>,
}

impl Connection {
    pub(super) fn new(id: ConnId, peer: IpAddr, queue: usize, complaints: mpsc::Sender<IpAddr>) -> Self {
        Connection {
            id,
            peer,
            codec: LineCodec::new(MAX_LINE),
            input: BytesMut::new(),
            output: BytesMut::new(),
            unanswered: 0,
            expects_much: false,
            most_unanswered: UNANSWERED.min(queue.max(1)),
            finished: false,
            patient_until: None,
            verdicts: 0,
            binds: false,
            fresh: true,
            stuck_since: None,
            events: None,
            pulse: None,
            complaints,
        }
    }

    /// Serves the peer until one side is done.
    pub(super) async fn run(mut self, mut stream: TcpStream, inbox: mpsc::Sender<Message>) {
        // A command may lead to a reply and to a session.
        let (to_us, mut lines) = mpsc::channel(2 * self.most_unanswered + PUSHES);
        if inbox.send(Message::Opened(self.id, self.peer, to_us)).await.is_err() {
            return;
        }
        let served = self.serve(&mut stream, &inbox, &mut lines).await;
        // An error only says that the registry has ended, and with it the server.
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
        lines: &mut mpsc::Receiver<ToPeer>,
    ) -> io::Result<()> {
        let (mut reader, writer) = stream.split();
        let mut batch = Vec::new();
        let mut open = true;
        while open || !self.output.is_empty() {
            let starving = open && self.pass_on(inbox).await?;
            self.write(&writer)?;
            if self.finished
                && starving
                && self.unanswered == 0
                && self.output.is_empty()
                && !self.is_patient()
            {
                return Ok(());
            }
            let may_read = starving && !self.finished;
            if may_read {
                self.input.reserve(READ.max(self.input.len()));
            }
            let may_tell = open && self.output.len() < UNREAD;
            tokio::select! {
                biased;
                count = lines.recv_many(&mut batch, UNANSWERED), if open => {
                    // None: the registry lets the peer go.
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
                () = sleep_until(self.patient_until) => return Ok(()),
                () = sleep_until(self.stuck_since.map(|since| since + WRITE_TIMEOUT)) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read"));
                }
            }
        }
        Ok(())
    }

    /// Whether a peer that has sent all it wants still gets a verdict: a script with a connection for each command
    /// does, and one whose end is the loss of a session does not, because that is noticed at once.
    fn is_patient(&mut self) -> bool {
        let waits = self.verdicts > 0 && !self.binds;
        if waits && self.patient_until.is_none() {
            self.patient_until = Some(Instant::now() + VERDICT_TIMEOUT);
        }
        waits
    }

    /// Passes on whole lines, as many as may be without an answer, but for what is answered here. True: there is room
    /// for more than were read.
    async fn pass_on(&mut self, inbox: &mpsc::Sender<Message>) -> io::Result<bool> {
        if self.output.len() >= UNREAD || self.expects_much {
            return Ok(false);
        }
        let (mut first, mut more) = (None, Vec::new());
        let starving = loop {
            if self.unanswered >= self.most_unanswered {
                break false;
            }
            let Some(line) = self.next_line()? else { break true };
            self.refuse_http(&line)?;
            // Some clients acknowledge a verdict, because the documentation of the reference says so.
            if matches!(&line, Line::Text(text) if text == "ACK" || text.starts_with("ACK|")) {
                continue;
            }
            let command = self.parse(&line);
            if self.unanswered == 0 && self.is_answered_here(&command) {
                self.say(&ServerLine::Reply(Reply::Pong))?;
                continue;
            }
            self.unanswered += 1;
            self.expects_much =
                matches!(&command, Ok(Command::Request(_, request)) if asks_for_much(request));
            if first.is_none() {
                first = Some(command)
            } else {
                more.push(command)
            }
            if self.expects_much {
                break false;
            }
        };
        let Some(first) = first else { return Ok(starving) };
        let message = if more.is_empty() {
            Message::Line(self.id, first)
        } else {
            more.insert(0, first);
            Message::Lines(self.id, more)
        };
        let ended = |_| io::Error::other("the registry has ended");
        inbox.send(message).await.map_err(ended)?;
        Ok(starving)
    }

    /// A keepalive, and nothing before it is without an answer.
    fn is_answered_here(&self, command: &Result<Command, Refusal>) -> bool {
        let (Some(pulse), Ok(command)) = (&self.pulse, command) else { return false };
        pulse.answers(command, SystemTime::now)
    }

    /// Port 81 is also a well-known admin page's.
    fn refuse_http(&mut self, line: &Line) -> io::Result<()> {
        let fresh = std::mem::take(&mut self.fresh);
        if fresh && matches!(line, Line::Text(text) if looks_like_http(text)) {
            // Full: there is much to complain about already.
            let _ = self.complaints.try_send(self.peer);
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer speaks HTTP"));
        }
        Ok(())
    }

    fn encode(&mut self, lines: &mut Vec<ToPeer>) -> io::Result<()> {
        for line in lines.drain(..) {
            let line = match line {
                ToPeer::Line(line) => line,
                ToPeer::Events(events) => {
                    self.events = Some(*events);
                    continue;
                }
                ToPeer::Bound(pulse) => {
                    self.pulse = Some(pulse);
                    continue;
                }
            };
            self.count(&line);
            self.say(&line)?;
        }
        Ok(())
    }

    fn say(&mut self, line: &ServerLine) -> io::Result<()> {
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
                self.expects_much &= self.unanswered > 0;
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

    /// An event has neither an id nor a token in it.
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
                // What could not be understood may hold a secret anywhere.
                Err(why) => {
                    debug!(conn = self.id.0, peer = %self.peer, %why, "received a line that is no command")
                }
            }
        }
        parsed
    }
}

/// Says EOF and waits for the peer's: closing with something unread would be a reset, which can overtake the
/// last lines.
async fn linger(mut stream: TcpStream) {
    let rest = async {
        stream.shutdown().await?;
        let mut left = UNREAD;
        while left > 0 {
            stream.readable().await?;
            // Not kept while it waits: it would be a part of every connection's task from the beginning.
            match stream.try_read(&mut [0; 1024]) {
                Ok(0) => break,
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        io::Result::Ok(())
    };
    // It is over either way.
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// Whether the reply may be as long as a line gets, or another line comes with it. All other replies are short, or as
/// long as what a session said of itself.
fn asks_for_much(request: &Request) -> bool {
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
