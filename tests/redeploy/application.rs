//! The application that is wrapped: it takes between 1 and 300 ms for an answer, sums up what it was sent, and
//! drops everything when a signal ends it. It may need a while to listen, and for its first answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Once;
use std::thread;
use std::time::Duration;

/// The variable with the port to listen on.
pub(crate) const PORT: &str = "APPLICATION_PORT";

/// The variable with how many milliseconds pass before it listens.
pub(crate) const LISTENS_AFTER: &str = "APPLICATION_LISTENS_AFTER";
/// The variable with how many milliseconds the first answer takes. Whoever asks meanwhile waits for it too.
pub(crate) const FIRST_ANSWER: &str = "APPLICATION_FIRST_ANSWER";

fn milliseconds(name: &str) -> Duration {
    std::env::var(name).map_or(Duration::ZERO, |text| Duration::from_millis(text.parse().unwrap()))
}

#[test]
#[ignore = "the application that the other tests wrap; it never ends by itself"]
fn serves() {
    let Ok(port) = std::env::var(PORT) else { return };
    thread::sleep(milliseconds(LISTENS_AFTER));
    let listener = TcpListener::bind(("0.0.0.0", port.parse().unwrap())).unwrap();
    for client in listener.incoming().map_while(Result::ok) {
        thread::spawn(move || answer_all(client));
    }
}

static WARM: Once = Once::new();

/// Until the other end has enough.
fn answer_all(client: TcpStream) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = BufReader::new(client);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            if client.read_line(&mut head)? == 0 {
                return Ok(());
            }
            let field = head[start..].to_ascii_lowercase();
            if let Some(value) = field.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body)?;
        WARM.call_once(|| thread::sleep(milliseconds(FIRST_ANSWER)));
        // The path says how long it is to take: /<milliseconds>.
        let path = head.split(' ').nth(1).unwrap_or("/");
        thread::sleep(Duration::from_millis(path.trim_start_matches('/').parse().unwrap_or(1)));
        let text = sum(&body).to_string();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        client.get_mut().write_all(answer.as_bytes())?;
    }
}

/// FNV-1a: a body that lost or doubled a byte has another.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
