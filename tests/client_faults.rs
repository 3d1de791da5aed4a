//! The client as it is used, with its task and its timers, in paused time: the real registry core is behind
//! connections in memory that are tiny, and that end or fall silent behind any byte. A failure names its seed.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use registry_client::protocol::{Command, Domains, Line, LineCodec, MAX_LINE, PathPrefix, ServerLine};
use registry_client::{
    Client, ClientConfig, ConnectError, Connector, Endpoint, Intent, Route, RouteKey, Routes,
};
use registry_sidecar::server::registry::{ConnId, Effect, Input, Now, Registry, RegistryConfig};
use registry_sidecar::server::routing::Table;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::codec::{Decoder, Encoder};

const SEEDS: u64 = 150;
/// A silent peer is noticed (40 s), the longest pause passes (10 s), and one more try fails.
const BOUND: Duration = Duration::from_secs(70);
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 2, 2, 7)), 81);

/// The registry's core with what is connected to it.
struct Core {
    registry: Registry,
    lines: BTreeMap<ConnId, mpsc::UnboundedSender<ServerLine>>,
    table: Table,
    last: u64,
    rng: fastrand::Rng,
    /// Connections fail, and some cannot be made.
    is_faulty: bool,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy)]
struct Fate {
    /// Behind so many bytes.
    reads: usize,
    /// Behind so many bytes.
    writes: usize,
    /// Nobody is told.
    silent: bool,
}

/// Connects to the core.
#[derive(Clone)]
struct Door(Arc<Mutex<Core>>);

impl Core {
    fn new(seed: u64) -> Self {
        let mut ids = fastrand::Rng::with_seed(seed);
        let registry = Registry::new(RegistryConfig::default(), Box::new(move || Some(ids.u128(..))));
        Core {
            registry,
            lines: BTreeMap::new(),
            table: Table::default(),
            last: 0,
            rng: fastrand::Rng::with_seed(seed),
            is_faulty: true,
        }
    }

    /// Tells the registry, and what came of what it wanted: its store holds everything, every backend answers.
    fn turn(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = Now { mono: Instant::now().into_std(), wall: SystemTime::UNIX_EPOCH };
            self.registry.handle(now, input);
            for effect in self.registry.effects() {
                match effect {
                    Effect::Send(conn, line) => {
                        // Its task may have ended.
                        self.lines.get(&conn).map(|lines| lines.send(line));
                    }
                    Effect::Close(conn) => drop(self.lines.remove(&conn)),
                    Effect::Commit(tx, _) => inputs.push_back(Input::Committed(tx)),
                    Effect::Publish(table) => self.table = table,
                    Effect::Watch(probe) => inputs.push_back(Input::Probed(probe, Ok(()))),
                    _ => {}
                }
            }
        }
    }

    /// Somebody connects; `None`: he is refused.
    fn accept(&mut self) -> Option<(ConnId, Fate, mpsc::UnboundedReceiver<ServerLine>)> {
        let (mut fate, mut refuses) = (Fate { reads: usize::MAX, writes: usize::MAX, silent: false }, false);
        if self.is_faulty {
            refuses = self.rng.u8(..) < 50;
            fate =
                Fate { reads: self.rng.usize(..600), writes: self.rng.usize(..600), silent: self.rng.bool() };
        }
        if refuses {
            return None;
        }
        self.last += 1;
        let conn = ConnId(self.last);
        let (sender, lines) = mpsc::unbounded_channel();
        self.lines.insert(conn, sender);
        self.turn(Input::Opened(conn, ADDRESS.ip()));
        Some((conn, fate, lines))
    }

    /// The domains that are served.
    fn served(&self) -> Vec<String> {
        let usable = self.table.claims().filter(|claim| claim.has_usable());
        let mut domains: Vec<_> = usable.map(|claim| claim.domain.to_string()).collect();
        domains.sort();
        domains
    }
}

impl Connector for Door {
    type Stream = DuplexStream;

    async fn connect(&self, _: u32) -> Result<(DuplexStream, SocketAddr), ConnectError> {
        let accepted = self.0.lock().unwrap().accept();
        let (conn, fate, lines) = accepted.ok_or(ConnectError::Refused { address: ADDRESS })?;
        // So small that no line fits: what is written partly is written on later.
        let (ours, theirs) = tokio::io::duplex(7);
        let core = Arc::clone(&self.0);
        tokio::spawn(async move {
            serve(&core, conn, theirs, fate, lines).await;
            let mut core = core.lock().unwrap();
            core.lines.remove(&conn);
            core.turn(Input::Closed(conn));
        });
        Ok((ours, ADDRESS))
    }
}

/// One connection, until one side or its fate ends it.
async fn serve(
    core: &Mutex<Core>,
    conn: ConnId,
    stream: DuplexStream,
    fate: Fate,
    mut lines: mpsc::UnboundedReceiver<ServerLine>,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (mut codec, mut input) = (LineCodec::new(MAX_LINE), BytesMut::new());
    let (mut read, mut written) = (0, 0);
    loop {
        tokio::select! {
            count = reader.read_buf(&mut input) => {
                let count = count.unwrap_or_default();
                read += count;
                if count == 0 || read > fate.reads {
                    break;
                }
                while let Some(Line::Text(line)) = codec.decode(&mut input).unwrap() {
                    core.lock().unwrap().turn(Input::Line(conn, Command::parse(&line)));
                }
            }
            line = lines.recv() => {
                let Some(line) = line else { break };
                let mut bytes = BytesMut::new();
                codec.encode(&line.encode(), &mut bytes).unwrap();
                let room = bytes.len().min(fate.writes - written);
                written += room;
                if writer.write_all(&bytes[..room]).await.is_err() || room < bytes.len() {
                    break;
                }
            }
        }
    }
    if fate.silent {
        // Whatever comes is lost, until the client gives up.
        while reader.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
    }
}

fn some_routes(rng: &mut fastrand::Rng) -> Routes {
    let mut routes = Routes::new();
    for name in ["a", "b", "c"].into_iter().filter(|_| rng.bool()).collect::<Vec<_>>() {
        let domains = Domains::new([format!("{name}.example.com").parse().unwrap()]).unwrap();
        let backend = format!("http://10.2.2.7:{}", rng.u16(8000..8003)).parse().unwrap();
        routes.insert(RouteKey::from(name), Route::new(domains, PathPrefix::root(), backend));
    }
    routes
}

async fn story(seed: u64) {
    let core = Arc::new(Mutex::new(Core::new(seed)));
    let mut config = ClientConfig::new(Endpoint::new("proxy", 81));
    config.seed = Some(seed);
    let intent = Intent::new("web".parse().unwrap(), "web-1".parse().unwrap());
    let (client, _events) = Client::start_with(Door(Arc::clone(&core)), config, intent);
    let mut rng = fastrand::Rng::with_seed(seed + 1);
    for _ in 0..6 {
        sleep(Duration::from_millis(rng.u64(..20_000))).await;
        client.set_routes(some_routes(&mut rng)).unwrap();
    }
    core.lock().unwrap().is_faulty = false;

    let live = client.wait_settled(BOUND).await;
    assert!(live.is_ok(), "seed {seed}: not live: {:?}", client.status());
    let wanted: Vec<_> = client.routes().keys().map(|key| format!("{key}.example.com")).collect();
    assert_eq!(core.lock().unwrap().served(), wanted, "seed {seed}");

    let asked = Instant::now();
    client.shutdown().await;
    assert!(asked.elapsed() <= Duration::from_millis(500), "seed {seed}: {:?}", asked.elapsed());
    assert!(core.lock().unwrap().served().is_empty(), "seed {seed}: something is left");
}

#[test]
fn whatever_the_connections_do_what_is_wanted_is_in_force_in_the_end() {
    for seed in 0..SEEDS {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(story(seed));
    }
}
