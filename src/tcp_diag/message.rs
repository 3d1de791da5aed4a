//! Pure: the messages of the kernel's socket diagnosis (`sock_diag(7)`, `linux/inet_diag.h`).
//!
//! It must not know sockets: it turns questions into bytes, and bytes into what the kernel says.

#![cfg_attr(
    not(feature = "server"),
    allow(dead_code, reason = "only the proxy asks about single connections")
)]

use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::time::Duration;

/// The length of a message's header, `nlmsghdr`.
const HEADER: usize = 16;
/// The length of what the kernel says of a connection before its attributes, `inet_diag_msg`.
const ENTRY: usize = 72;
/// How much of `tcp_info` is read: up to `tcpi_data_segs_out`.
const TCP_INFO: usize = 160;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const IPPROTO_TCP: u8 = 6;
/// The attribute that holds `tcp_info`. A question asks for it by a bit.
const INET_DIAG_INFO: u16 = 2;
/// `TCP_ESTABLISHED`
const ESTABLISHED: u8 = 1;
/// `TCP_CLOSE_WAIT`: closed by the peer alone.
const CLOSE_WAIT: u8 = 8;
/// The states that are asked for.
const STATES: u32 = 1 << ESTABLISHED | 1 << CLOSE_WAIT;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// `AF_INET`, `AF_INET6`
    fn number(self) -> u8 {
        match self {
            Family::V4 => 2,
            Family::V6 => 10,
        }
    }
}

/// What the kernel knows of an open TCP connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TcpState {
    /// Bytes that have arrived and that the program has not read.
    pub(crate) unread: u32,
    /// Bytes that the program has written and that the peer has not acknowledged, sent or not.
    pub(crate) undelivered: u32,
    /// Segments that were sent and not acknowledged. Zero while the peer's window is closed.
    pub(crate) unacknowledged: u32,
    /// How many segments with data have come and gone.
    pub(crate) data_segments: (u32, u32),
    /// Since when no data were sent; since the connection's beginning if there were none.
    pub(crate) since_sent: Duration,
    /// The same for data that came.
    pub(crate) since_received: Duration,
    /// Since when nothing was acknowledged.
    pub(crate) since_acknowledged: Duration,
}

/// Asks for every connection with this local port.
pub(super) fn ask_for_port(family: Family, port: u16) -> Vec<u8> {
    let mut id = [0; 48];
    id[..2].copy_from_slice(&port.to_be_bytes());
    question(family, NLM_F_REQUEST | NLM_F_DUMP, id)
}

/// Asks for one connection.
pub(super) fn ask_for_connection(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let mut id = [0; 48];
    id[..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&peer.port().to_be_bytes());
    put(&mut id[4..20], local.ip());
    put(&mut id[20..36], peer.ip());
    // Any socket, whichever cookie the kernel gave it.
    id[40..].fill(0xff);
    question(Family::of(local.ip()), NLM_F_REQUEST, id)
}

fn put(field: &mut [u8], ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => field[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => field.copy_from_slice(&ip.octets()),
    }
}

fn question(family: Family, flags: u16, id: [u8; 48]) -> Vec<u8> {
    let length = (HEADER + 8 + id.len()) as u32;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // The sequence number and the port of whoever asks: one question is open at a time.
    bytes.extend([0; 8]);
    bytes.extend([family.number(), IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0]);
    bytes.extend(STATES.to_ne_bytes());
    bytes.extend(id);
    bytes
}

/// What a batch of messages ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The kernel has said everything.
    Done,
    /// It does not answer such questions, for this reason (an `errno`).
    Refused(i32),
}

/// Passes each connection of a batch to `found`. Breaks where the answer ends.
pub(super) fn read(mut bytes: &[u8], mut found: impl FnMut(TcpState)) -> ControlFlow<End> {
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let length = length as usize;
        let Some(message) = bytes.get(HEADER..length) else { return ControlFlow::Break(End::Done) };
        match kind {
            NLMSG_DONE => return ControlFlow::Break(End::Done),
            NLMSG_ERROR => {
                let errno = u32_at(message, 0).map_or(0, |negative| (negative as i32).saturating_neg());
                return ControlFlow::Break(End::Refused(errno));
            }
            SOCK_DIAG_BY_FAMILY => {
                if let Some(state) = connection(message) {
                    found(state);
                }
            }
            _ => {}
        }
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    ControlFlow::Continue(())
}

fn connection(message: &[u8]) -> Option<TcpState> {
    let (queued, undelivered) = (u32_at(message, 56)?, u32_at(message, 60)?);
    // The peer's FIN is counted like a byte.
    let unread = queued.saturating_sub(u32::from(*message.get(1)? == CLOSE_WAIT));
    let mut attributes = message.get(ENTRY..)?;
    loop {
        let (length, kind) = (usize::from(u16_at(attributes, 0)?), u16_at(attributes, 2)?);
        let value = attributes.get(4..length)?;
        if kind == INET_DIAG_INFO {
            return tcp_info(value, unread, undelivered);
        }
        attributes = attributes.get(aligned(length)..)?;
    }
}

fn tcp_info(info: &[u8], unread: u32, undelivered: u32) -> Option<TcpState> {
    // Kernels before 4.6 have a shorter one.
    info.get(..TCP_INFO)?;
    let millis = |at| u32_at(info, at).map(|millis| Duration::from_millis(millis.into()));
    Some(TcpState {
        unread,
        undelivered,
        unacknowledged: u32_at(info, 24)?,
        data_segments: (u32_at(info, 152)?, u32_at(info, 156)?),
        since_sent: millis(44)?,
        since_received: millis(52)?,
        since_acknowledged: millis(56)?,
    })
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with an attribute before the one that is wanted.
    fn entry() -> Vec<u8> {
        let mut info = vec![0; 232];
        for (at, value) in [(24, 3_u32), (44, 10), (52, 20), (56, 30), (152, 5), (156, 6)] {
            info[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let mut message = vec![0; ENTRY];
        message[56..60].copy_from_slice(&7_u32.to_ne_bytes());
        message[60..64].copy_from_slice(&8_u32.to_ne_bytes());
        let mut attribute = |kind: u16, value: &[u8]| {
            message.extend((value.len() as u16 + 4).to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(value);
            message.resize(message.len().next_multiple_of(4), 0);
        };
        attribute(8, &[0]);
        attribute(INET_DIAG_INFO, &info);
        with_header(SOCK_DIAG_BY_FAMILY, &message)
    }

    fn with_header(kind: u16, message: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + message.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(message);
        bytes
    }

    fn states(bytes: &[u8]) -> (Vec<TcpState>, ControlFlow<End>) {
        let mut states = Vec::new();
        let end = read(bytes, |state| states.push(state));
        (states, end)
    }

    #[test]
    fn connections_are_read_until_the_answer_ends() {
        let mut bytes = [entry(), entry()].concat();
        let (found, end) = states(&bytes);
        assert_eq!((found.len(), end), (2, ControlFlow::Continue(())));
        let state = &found[0];
        assert_eq!((state.unread, state.undelivered, state.unacknowledged), (7, 8, 3));
        assert_eq!(state.data_segments, (5, 6));
        let times = [state.since_sent, state.since_received, state.since_acknowledged];
        assert_eq!(times.map(|time| time.as_millis()), [10, 20, 30]);
        bytes.extend(with_header(NLMSG_DONE, &[0; 4]));
        assert_eq!(states(&bytes).1, ControlFlow::Break(End::Done));
        let mut closed = entry();
        closed[HEADER + 1] = CLOSE_WAIT;
        assert_eq!(states(&closed).0[0].unread, 6, "one of the seven is the FIN");
        let refused = with_header(NLMSG_ERROR, &(-2_i32).to_ne_bytes());
        assert_eq!(states(&refused), (Vec::new(), ControlFlow::Break(End::Refused(2))));
    }

    #[test]
    fn whatever_is_cut_off_is_no_connection() {
        let whole = entry();
        for length in 0..whole.len() {
            assert_eq!(states(&whole[..length]).0, [], "{length} bytes");
            // The same with a header that is true.
            if let Some(message) = whole.get(HEADER..length) {
                let found = states(&with_header(SOCK_DIAG_BY_FAMILY, message)).0;
                assert!(found.is_empty(), "{length} bytes");
            }
        }
    }
}
