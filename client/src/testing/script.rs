//! A registry that does what a script says, line by line: over loopback, or in memory for paused time.
//!
//! All of it panics where the client does not do as the script says, or takes longer than 10 s (an hour of virtual time
//! in memory).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::connect::{ConnectError, Connector, Endpoint};

/// How long the client may take for what the script says; generous, because nobody waits for it in vain.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How the client watches its routes.
const WATCH: &str = "CIRCUIT_BREAKER_STATUS|";
/// The same where time is virtual.
const VIRTUAL_PATIENCE: Duration = Duration::from_secs(3600);

/// A listening registry that does what a script says:
///
/// ```text
/// > REGISTER|web|web-1|0|{}      the client must send exactly this; `*` at the end matches the rest
/// < ACK|S1                       the registry sends this
/// ```
///
/// Questions by which the client watches its routes (CIRCUIT_BREAKER_STATUS) come at any time. Where the script has none
/// they are answered with `ERROR|circuit breaker not found`.
#[derive(Debug)]
pub struct ScriptedRegistry {
    listener: TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
}

/// The same without a socket: [`MemoryConnector`] leads to it.
#[derive(Debug)]
pub struct MemoryRegistry {
    accepted: mpsc::Receiver<DuplexStream>,
}

/// Connects to a [`MemoryRegistry`]; refused while that is gone.
#[derive(Debug, Clone)]
pub struct MemoryConnector {
    connections: mpsc::Sender<DuplexStream>,
}

/// One connection, from the registry's side.
#[derive(Debug)]
pub struct ScriptedLink<S> {
    stream: BufReader<S>,
    patience: Duration,
}

impl ScriptedRegistry {
    /// Listens on a free port of the loopback interface.
    pub async fn listen() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        ScriptedRegistry { listener, address }
    }

    /// Where a client finds it.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.address.ip().to_string(), self.address.port())
    }

    /// The client's next connection.
    pub async fn accept(&self) -> ScriptedLink<TcpStream> {
        let accepted = timeout(PATIENCE, self.listener.accept()).await.expect("the client did not connect");
        let (stream, _) = accepted.unwrap();
        stream.set_nodelay(true).unwrap();
        ScriptedLink { stream: BufReader::new(stream), patience: PATIENCE }
    }
}

impl MemoryRegistry {
    /// The registry, and what leads to it.
    pub fn new() -> (Self, MemoryConnector) {
        let (connections, accepted) = mpsc::channel(1);
        (MemoryRegistry { accepted }, MemoryConnector { connections })
    }

    /// The client's next connection.
    pub async fn accept(&mut self) -> ScriptedLink<DuplexStream> {
        let accepted = timeout(VIRTUAL_PATIENCE, self.accepted.recv()).await;
        let stream = accepted.expect("the client did not connect").unwrap();
        ScriptedLink { stream: BufReader::new(stream), patience: VIRTUAL_PATIENCE }
    }
}

impl Connector for MemoryConnector {
    type Stream = DuplexStream;

    async fn connect(&self, _: u32) -> Result<(DuplexStream, SocketAddr), ConnectError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 81));
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let sent = self.connections.try_send(theirs);
        sent.map_err(|_| ConnectError::Refused { address })?;
        Ok((ours, address))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ScriptedLink<S> {
    /// Plays a script; panics where the client does something else.
    pub async fn play(&mut self, script: &str) {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line.split_once(' ') {
                Some((">", expected)) => self.expect(expected).await,
                Some(("<", reply)) => self.send(reply).await,
                _ => panic!("a script's line starts with '> ' or '< ': {line:?}"),
            }
        }
    }

    /// Answers the questions by which the client watches its routes until `done`; panics where it sends anything else.
    pub async fn answer_watch_until(&mut self, mut done: impl FnMut() -> bool) {
        let answered = async {
            while !done() {
                if let Ok(sent) = timeout(LOOK, self.stream.fill_buf()).await {
                    assert!(sent.is_ok_and(|sent| !sent.is_empty()), "the end of the connection");
                    let line = self.line().await.unwrap_or_default();
                    assert!(self.answer_watch(&line).await, "got {line:?}");
                }
            }
        };
        timeout(2 * PATIENCE, answered).await.expect("it did not come true");
    }

    async fn answer_watch(&mut self, line: &str) -> bool {
        let is_watch = line.starts_with(WATCH);
        if is_watch {
            self.send("ERROR|circuit breaker not found").await;
        }
        is_watch
    }

    /// The client's next line must match.
    pub async fn expect(&mut self, expected: &str) {
        let mut line = self.line().await;
        while let Some(sent) = &line
            && !expected.starts_with(WATCH)
            && self.answer_watch(&sent.clone()).await
        {
            line = self.line().await;
        }
        let line = line.unwrap_or_else(|| panic!("expected {expected:?}, met the end of the connection"));
        let matches = match expected.strip_suffix('*') {
            Some(start) => line.starts_with(start),
            None => line == expected,
        };
        assert!(matches, "expected {expected:?}, got {line:?}");
    }

    /// The client's next line; `None`: it closed the connection.
    pub async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(self.patience, self.stream.read_line(&mut line)).await;
        match read.expect("the client sent nothing") {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end_matches('\n').to_owned()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The client must close the connection, without another word.
    pub async fn expect_end(&mut self) {
        assert_eq!(self.line().await, None, "expected the end of the connection");
    }

    /// Sends a line.
    pub async fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes()).await;
    }

    /// Sends these bytes as they are.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }
}

impl ScriptedLink<TcpStream> {
    /// Ends the connection as a killed process or a firewall does: RST.
    pub fn reset(self) {
        let stream = self.stream.into_inner();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}
