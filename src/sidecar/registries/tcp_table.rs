//! Counts the connections to the wrapped application in the kernel's tables, for registries that cannot count what is
//! in flight (the reference server). An idle connection in a proxy's pool looks like one with a request on it.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::info;

/// Where the kernel lists the connections of this network namespace.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The pause between two counts.
const POLL: Duration = Duration::from_millis(50);
/// The state of a connection that is established.
const ESTABLISHED: &str = "01";

/// Returns when nobody is connected to these local ports any more, or after `limit`. Where the kernel's tables cannot
/// be read it waits for the whole `limit`, because requests may be in flight.
///
/// Cancel-safe.
pub(crate) async fn no_connections(ports: &[u16], limit: Duration) {
    if !limit.is_zero() && timeout(limit, until_none(ports)).await.is_err() {
        info!("connections to the application are still open after {limit:?}; going on");
    }
}

async fn until_none(ports: &[u16]) {
    let mut logged = false;
    loop {
        match count_open(ports) {
            Some(0) => return,
            Some(count) if !logged => info!("waiting for {count} connections to the application to end"),
            _ => {}
        }
        logged = true;
        sleep(POLL).await;
    }
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

    #[tokio::test]
    async fn a_connection_is_waited_for_and_not_for_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        let accepted = listener.accept().await.unwrap();
        let ports = [address.port()];
        assert!(timeout(Duration::from_millis(120), until_none(&ports)).await.is_err());
        no_connections(&ports, Duration::from_millis(1)).await;
        drop((client, accepted));
        timeout(Duration::from_secs(20), until_none(&ports)).await.unwrap();
    }
}
