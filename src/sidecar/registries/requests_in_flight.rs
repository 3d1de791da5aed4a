//! Whether requests are in flight to the wrapped application, as far as its TCP connections show it. For registries that
//! cannot tell (the reference server), and for those that do not answer.
//!
//! A proxy keeps connections open on which nothing is in flight. They are told from others by when data last went which
//! way. Where the kernel does not say that, every open connection counts.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use crate::tcp_diag::{TcpDiag, TcpState};

/// Where the kernel lists the connections of this network namespace.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The pause between two looks.
const POLL: Duration = Duration::from_millis(50);
/// How many looks in a row must find nothing: a request may be on its way that was sent just before the registry
/// acknowledged.
const LOOKS: u32 = 3;
/// How long nothing has moved on a connection that is idle. A response may pause for less.
const QUIET: Duration = Duration::from_secs(1);
/// The kernel counts in ticks of up to 10 ms, so times that differ by less may be the other way round.
const TICK: Duration = Duration::from_millis(10);
/// The state of a connection that is established, in the kernel's tables.
const ESTABLISHED: &str = "01";

/// From when on no new requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// The registry acknowledged at that moment that we left.
    Known(Instant),
    /// They may still come: none have come when nothing has moved for [`QUIET`].
    Unknown,
}

/// Returns when no request is in flight on connections to these local ports, or after `limit`. Where it is unknown
/// whether new ones come, that takes [`QUIET`] at least. Where the kernel tells nothing at all it waits for the whole
/// `limit`, because requests may be in flight.
///
/// Cancel-safe.
pub(super) async fn until_none(ports: &[u16], since: Since, limit: Duration) {
    if !limit.is_zero() && timeout(limit, none(ports, since)).await.is_err() {
        info!("requests to the application may still be in flight after {limit:?}; going on");
    }
}

async fn none(ports: &[u16], since: Since) {
    let begun = Instant::now();
    let (mut looks, mut logged) = (0, false);
    let mut diag = TcpDiag::open().inspect_err(|error| debug!(%error, "the kernel tells no states")).ok();
    let mut moved = Moved::default();
    loop {
        let states = diag.as_mut().and_then(|diag| diag.connections_at(ports).ok());
        if states.is_none() {
            diag = None;
        }
        let now = Instant::now();
        let busy = match &states {
            Some(states) => {
                moved.note(states, now);
                let quiet = match since {
                    Since::Known(left) => Some(now - left),
                    Since::Unknown => None,
                };
                Some(states.iter().filter(|state| is_busy(state, quiet)).count())
            }
            None => count_open(ports),
        };
        looks = if busy == Some(0) { looks + 1 } else { 0 };
        // Connections that were closed since do not show that they were used.
        let long_enough = since != Since::Unknown || now - moved.last.unwrap_or(begun) >= QUIET;
        if looks >= LOOKS && long_enough {
            return;
        }
        if let Some(count) = busy.filter(|count| *count > 0 && !logged) {
            info!("waiting for requests on {count} connections to the application to end");
            logged = true;
        }
        sleep(POLL).await;
    }
}

/// When data last moved on any of the connections, those included that were closed since.
#[derive(Default)]
struct Moved {
    last: Option<Instant>,
}

impl Moved {
    fn note(&mut self, states: &[TcpState], now: Instant) {
        let latest = states.iter().filter_map(|state| now.checked_sub(last_moved(state))).max();
        self.last = self.last.max(latest);
    }
}

/// How long ago data last moved either way.
fn last_moved(state: &TcpState) -> Duration {
    state.since_sent.min(state.since_received)
}

/// Whether a request may be in flight. `left` is how long ago the registry acknowledged that no new ones come.
///
/// On an idle connection the last data went out, and have arrived. A response may still pause, so nothing must have
/// moved for [`QUIET`], or not since new requests could come. Where request and response came within one tick, nobody
/// can tell which was the last, so only the silence counts. An upgraded connection that is silent counts as idle.
fn is_busy(state: &TcpState, left: Option<Duration>) -> bool {
    let (requests, responses) = state.data_segments;
    if state.unread > 0 || state.undelivered > 0 || requests > 0 && responses == 0 {
        return true;
    }
    if state.since_sent > state.since_received + TICK {
        return true;
    }
    let was_last_to_send = state.since_sent + TICK < state.since_received || requests == 0;
    let moved = last_moved(state);
    moved < QUIET && !(was_last_to_send && left.is_some_and(|left| moved > left))
}

/// How many connections there are; `None` where no table can be read.
fn count_open(ports: &[u16]) -> Option<usize> {
    let tables = TABLES.iter().filter_map(|table| std::fs::read_to_string(table).ok());
    tables.map(|table| established(&table, ports)).reduce(|one, other| one + other)
}

/// How many established connections of a table were accepted on one of the ports.
fn established(table: &str, ports: &[u16]) -> usize {
    let is_one = |line: &&str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        let port = local.and_then(|local| u16::from_str_radix(local.rsplit(':').next()?, 16).ok());
        state == Some(ESTABLISHED) && port.is_some_and(|port| ports.contains(&port))
    };
    table.lines().skip(1).filter(is_one).count()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const TABLE: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0202000A:1F90 0302000A:D431 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0202000A:D431 0302000A:1F90 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
   3: 0202000A:1F90 0402000A:D432 06 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
   4: broken
";

    #[test]
    fn only_what_was_accepted_on_the_port_and_is_open_counts() {
        assert_eq!(established(TABLE, &[8080]), 1);
        assert_eq!(established(TABLE, &[8081, 54321]), 1);
        assert_eq!(established(TABLE, &[]) + established("", &[8080]), 0);
    }

    /// A connection on which three requests were answered: received and sent so many milliseconds ago.
    fn state(received: u64, sent: u64) -> TcpState {
        TcpState {
            unread: 0,
            undelivered: 0,
            unacknowledged: 0,
            data_segments: (3, 3),
            since_sent: Duration::from_millis(sent),
            since_received: Duration::from_millis(received),
            since_acknowledged: Duration::from_millis(sent),
        }
    }

    #[test]
    fn a_request_without_its_response_is_in_flight_and_an_idle_connection_is_not() {
        let left = Some(Duration::from_millis(100));
        let cases = [
            ("the response went out before we left", state(700, 300), left, false),
            ("and we have not left for certain", state(700, 300), None, true),
            ("nothing has moved for a second", state(1400, 1100), None, false),
            ("it went out since we left, and may go on", state(700, 50), left, true),
            ("a request that came long ago", state(3000, 9000), left, true),
            ("within one tick, just now", state(300, 300), left, true),
            ("within one tick, a while ago", state(1300, 1300), left, false),
            ("never used", TcpState { data_segments: (0, 0), ..state(300, 300) }, left, false),
            (
                "a first request, no response",
                TcpState { data_segments: (1, 0), ..state(5000, 5000) },
                left,
                true,
            ),
            ("an unread request", TcpState { unread: 1, ..state(3000, 2000) }, left, true),
            ("a response that has not arrived", TcpState { undelivered: 1, ..state(3000, 2000) }, left, true),
        ];
        for (what, state, left, busy) in cases {
            assert_eq!(is_busy(&state, left), busy, "{what}");
        }
    }

    async fn connection() -> (TcpStream, TcpStream, [u16; 1]) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        (client, listener.accept().await.unwrap().0, [address.port()])
    }

    #[tokio::test]
    async fn an_idle_connection_is_not_waited_for_and_a_request_is_but_not_for_ever() {
        let (mut client, mut server, ports) = connection().await;
        client.write_all(b"request").await.unwrap();
        let soon = Duration::from_millis(1500);
        assert!(timeout(soon, none(&ports, Since::Known(Instant::now()))).await.is_err());
        until_none(&ports, Since::Unknown, Duration::from_millis(1)).await;
        server.read_exact(&mut [0; 7]).await.unwrap();
        assert!(timeout(soon, none(&ports, Since::Unknown)).await.is_err(), "it was read and not answered");
        server.write_all(b"response").await.unwrap();
        client.read_exact(&mut [0; 8]).await.unwrap();
        timeout(Duration::from_secs(20), none(&ports, Since::Known(Instant::now()))).await.unwrap();
    }

    #[tokio::test]
    async fn while_new_requests_may_come_nothing_must_move_for_a_while() {
        let (client, _server, ports) = connection().await;
        drop(client);
        let begun = Instant::now();
        none(&ports, Since::Unknown).await;
        assert!(begun.elapsed() >= QUIET);
    }
}
