//! What two replicas tell each other about the connections of clients: the messages, and their bytes (pure).
//!
//! A replica that does not lead passes the commands of its clients on to the leader, and the leader's lines back. Both
//! name a connection by the number that the replica gave it. A message's bytes are its kind, the connection's number and
//! what belongs to the kind; lines are the text that they have on a client's connection (PROTOCOL section 3). A kind that
//! this version does not know breaks the link, because a replica that skipped it would do something else than its leader.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use registry_client::protocol::{Command, Refusal, ServerLine, SessionId};

use crate::server::registry::{ConnId, DrainShare, SessionNo};

/// A line of a client: a command, or what it is answered with because it is none.
pub(super) type Line = Result<Command, Refusal>;

/// From a replica to the leader.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ToLeader {
    /// A client connected from this address.
    Opened(ConnId, IpAddr),
    /// A client is connected from this address, and the former leader had bound this session to its connection.
    Announced(ConnId, IpAddr, SessionId),
    /// The client sent a line.
    Line(ConnId, Line),
    /// The connection is closed, or the client has sent everything and received all replies.
    Closed(ConnId),
    /// All that the replica's proxy has left to do for sessions that it knows to be drained.
    Drains(Vec<DrainShare>),
    /// The replica lives.
    Alive,
}

/// From the leader to a replica.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FromLeader {
    /// A line for the client, which must not be lost.
    Line(ConnId, Box<ServerLine>),
    /// An event for the client, which is lost if the client does not keep up.
    Event(ConnId, Arc<str>),
    /// This session is bound to the connection from now on, which may answer its PINGs.
    Bound(ConnId, SessionId),
    /// No session is bound to the connection any more.
    Unbound(ConnId),
    /// Close the connection when its lines are written.
    Close(ConnId),
    /// The leader lives, and has written the store up to this revision.
    Alive(u64),
}

/// So many sessions fit into a message. The leader takes a replica for busy that says nothing of a session.
const MOST_DRAINS: usize = 40_000;

/// Bytes that are no message of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message that this version does not know")]
pub(super) struct UnknownMessage;

const OPENED: u8 = 0x01;
const ANNOUNCED: u8 = 0x02;
const COMMAND: u8 = 0x03;
const REFUSED: u8 = 0x04;
const CLOSED: u8 = 0x05;
const REPLICA_ALIVE: u8 = 0x06;
const DRAINS: u8 = 0x07;
const LINE: u8 = 0x11;
const EVENT: u8 = 0x12;
const BOUND: u8 = 0x13;
const UNBOUND: u8 = 0x14;
const CLOSE: u8 = 0x15;
const LEADER_ALIVE: u8 = 0x16;

impl ToLeader {
    /// Appends the message's bytes.
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        match self {
            ToLeader::Opened(conn, peer) => {
                head(out, OPENED, *conn);
                put_address(out, *peer);
            }
            ToLeader::Announced(conn, peer, session) => {
                head(out, ANNOUNCED, *conn);
                put_address(out, *peer);
                out.put_slice(session.reveal().as_bytes());
            }
            ToLeader::Line(conn, Ok(command)) => text(out, COMMAND, *conn, &command.encode()),
            ToLeader::Line(conn, Err(refusal)) => text(out, REFUSED, *conn, &refusal.text()),
            ToLeader::Closed(conn) => head(out, CLOSED, *conn),
            ToLeader::Alive => out.put_u8(REPLICA_ALIVE),
            ToLeader::Drains(shares) => {
                out.put_u8(DRAINS);
                for share in shares.iter().take(MOST_DRAINS) {
                    out.put_u64(share.session.0);
                    out.put_u64(share.in_flight);
                    out.put_u64(share.upgraded);
                    out.put_u8(u8::from(share.is_closed));
                }
            }
        }
    }

    /// Reads one message, which takes all of `bytes`.
    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self, UnknownMessage> {
        let kind = bytes.try_get_u8().map_err(|_| UnknownMessage)?;
        if kind == REPLICA_ALIVE {
            return nothing_left(bytes).map(|()| ToLeader::Alive);
        }
        if kind == DRAINS {
            let mut shares = Vec::new();
            while !bytes.is_empty() {
                shares.push(drain_share(&mut bytes)?);
            }
            return Ok(ToLeader::Drains(shares));
        }
        let conn = connection(&mut bytes)?;
        match kind {
            OPENED => {
                let peer = address(&mut bytes)?;
                nothing_left(bytes).map(|()| ToLeader::Opened(conn, peer))
            }
            ANNOUNCED => Ok(ToLeader::Announced(conn, address(&mut bytes)?, session(bytes)?)),
            COMMAND => {
                let command = Command::parse(utf8(bytes)?).map_err(|_| UnknownMessage)?;
                Ok(ToLeader::Line(conn, Ok(command)))
            }
            REFUSED => Ok(ToLeader::Line(conn, Err(Refusal::from_text(utf8(bytes)?)))),
            CLOSED => nothing_left(bytes).map(|()| ToLeader::Closed(conn)),
            _ => Err(UnknownMessage),
        }
    }
}

impl FromLeader {
    /// Appends the message's bytes.
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        match self {
            FromLeader::Line(conn, line) => text(out, LINE, *conn, &line.encode()),
            FromLeader::Event(conn, line) => text(out, EVENT, *conn, line),
            FromLeader::Bound(conn, session) => text(out, BOUND, *conn, session.reveal()),
            FromLeader::Unbound(conn) => head(out, UNBOUND, *conn),
            FromLeader::Close(conn) => head(out, CLOSE, *conn),
            FromLeader::Alive(revision) => {
                out.put_u8(LEADER_ALIVE);
                out.put_u64(*revision);
            }
        }
    }

    /// Reads one message, which takes all of `bytes`.
    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self, UnknownMessage> {
        let kind = bytes.try_get_u8().map_err(|_| UnknownMessage)?;
        if kind == LEADER_ALIVE {
            let revision = bytes.try_get_u64().map_err(|_| UnknownMessage)?;
            return nothing_left(bytes).map(|()| FromLeader::Alive(revision));
        }
        let conn = connection(&mut bytes)?;
        match kind {
            LINE => {
                let line = ServerLine::parse(utf8(bytes)?).map_err(|_| UnknownMessage)?;
                Ok(FromLeader::Line(conn, Box::new(line)))
            }
            EVENT => Ok(FromLeader::Event(conn, utf8(bytes)?.into())),
            BOUND => Ok(FromLeader::Bound(conn, session(bytes)?)),
            UNBOUND => nothing_left(bytes).map(|()| FromLeader::Unbound(conn)),
            CLOSE => nothing_left(bytes).map(|()| FromLeader::Close(conn)),
            _ => Err(UnknownMessage),
        }
    }
}

fn head(out: &mut impl BufMut, kind: u8, conn: ConnId) {
    out.put_u8(kind);
    out.put_u64(conn.0);
}

fn text(out: &mut impl BufMut, kind: u8, conn: ConnId, text: &str) {
    head(out, kind, conn);
    out.put_slice(text.as_bytes());
}

fn put_address(out: &mut impl BufMut, peer: IpAddr) {
    let octets = match peer {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    out.put_slice(&octets);
}

fn connection(bytes: &mut &[u8]) -> Result<ConnId, UnknownMessage> {
    bytes.try_get_u64().map(ConnId).map_err(|_| UnknownMessage)
}

fn drain_share(bytes: &mut &[u8]) -> Result<DrainShare, UnknownMessage> {
    let mut number = || bytes.try_get_u64().map_err(|_| UnknownMessage);
    let (session, in_flight, upgraded) = (SessionNo(number()?), number()?, number()?);
    let is_closed = bytes.try_get_u8().map_err(|_| UnknownMessage)? != 0;
    Ok(DrainShare { session, in_flight, upgraded, is_closed })
}

fn address(bytes: &mut &[u8]) -> Result<IpAddr, UnknownMessage> {
    let mut octets = [0; 16];
    bytes.try_copy_to_slice(&mut octets).map_err(|_| UnknownMessage)?;
    Ok(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
}

fn session(bytes: &[u8]) -> Result<SessionId, UnknownMessage> {
    SessionId::from_str(utf8(bytes)?).map_err(|_| UnknownMessage)
}

fn utf8(bytes: &[u8]) -> Result<&str, UnknownMessage> {
    std::str::from_utf8(bytes).map_err(|_| UnknownMessage)
}

fn nothing_left(bytes: &[u8]) -> Result<(), UnknownMessage> {
    if bytes.is_empty() { Ok(()) } else { Err(UnknownMessage) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: ConnId = ConnId(u64::MAX - 7);

    fn id() -> SessionId {
        "shop-1-ab".parse().unwrap()
    }

    fn to_leader() -> Vec<ToLeader> {
        let peers = ["10.2.2.7", "fd00::7"].map(|peer| peer.parse::<IpAddr>().unwrap());
        let mut all = vec![ToLeader::Closed(CONN), ToLeader::Alive];
        for peer in peers {
            all.push(ToLeader::Opened(CONN, peer));
            all.push(ToLeader::Announced(CONN, peer, id()));
        }
        for line in
            ["REGISTER|shop|one|0|{\"secret\":\"s\"}", "RECONNECT|shop-1-ab", "CONFIG_APPLY|", "NONSENSE|x"]
        {
            all.push(ToLeader::Line(CONN, Command::parse(line)));
        }
        all.push(ToLeader::Line(CONN, Err(Refusal::LineTooLong)));
        let share = DrainShare { session: SessionNo(7), in_flight: 1 << 33, upgraded: 2, is_closed: true };
        all.push(ToLeader::Drains(Vec::new()));
        all.push(ToLeader::Drains(vec![share, DrainShare { is_closed: false, ..share }]));
        all
    }

    fn from_leader() -> Vec<FromLeader> {
        let lines = ["OK", "ACK|shop-1-ab", "ERROR|store unavailable", "MAINT_OK|ALL", "SHUTDOWN"];
        let lines = lines.map(|line| FromLeader::Line(CONN, Box::new(ServerLine::parse(line).unwrap())));
        let mut all = lines.to_vec();
        all.push(FromLeader::Event(CONN, r#"EVENT|all|{"missed":3}"#.into()));
        all.push(FromLeader::Bound(CONN, id()));
        all.extend([FromLeader::Unbound(CONN), FromLeader::Close(CONN), FromLeader::Alive(1 << 40)]);
        all
    }

    #[test]
    fn every_message_is_read_back_as_it_was() {
        for message in to_leader() {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            assert_eq!(ToLeader::decode(&bytes), Ok(message));
        }
        for message in from_leader() {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            assert_eq!(FromLeader::decode(&bytes), Ok(message));
        }
    }

    #[test]
    fn no_beginning_of_a_message_and_no_other_bytes_break_anything() {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for message in to_leader() {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            all.push(bytes);
        }
        for message in from_leader() {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            all.push(bytes);
        }
        for bytes in &all {
            for end in 0..bytes.len() {
                let _ = (ToLeader::decode(&bytes[..end]), FromLeader::decode(&bytes[..end]));
            }
        }
        let wrong: [&[u8]; 6] = [
            &[],
            &[0],
            &[0x7f; 9],
            &[OPENED, 0, 0],
            &[REPLICA_ALIVE, 1],
            &[CLOSED, 0, 0, 0, 0, 0, 0, 0, 1, 9],
        ];
        for bytes in wrong {
            assert_eq!(ToLeader::decode(bytes), Err(UnknownMessage), "{bytes:?}");
            assert_eq!(FromLeader::decode(bytes), Err(UnknownMessage), "{bytes:?}");
        }
        let not_utf8 = [LINE, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
        assert_eq!(FromLeader::decode(&not_utf8), Err(UnknownMessage));
    }
}
