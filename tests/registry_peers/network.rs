//! A network of a test's own: a namespace in which this machine has the addresses of several containers.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use registry_sidecar::server::Server;
use tokio::net::{TcpListener, TcpSocket};

use crate::support::{self, Backend, Session, soon};

/// Where the registry listens.
const REGISTRY: &str = "10.2.2.2";
/// Whose containers there are; the last one is not from a private range.
const ADDRESSES: [&str; 5] = [REGISTRY, A, B, C, PUBLIC];
pub(crate) const A: &str = "10.2.2.7";
pub(crate) const B: &str = "10.2.2.8";
pub(crate) const C: &str = "10.2.2.9";
pub(crate) const PUBLIC: &str = "93.184.216.34";

/// Set where the namespace exists.
const INSIDE: &str = "TEST_IS_IN_ITS_NETWORK";

/// Tells the story of the test called `name` in a network of its own: this program runs again, inside.
#[expect(clippy::print_stdout, reason = "whoever reads the output of a test is to know that it did not run")]
pub(crate) fn in_a_network(name: &str, story: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        return runtime.unwrap().block_on(story);
    }
    // Whoever is not root is root in a user namespace.
    let flags = ["-n", "-rn"].into_iter().find(|flags| {
        Command::new("unshare").args([flags, "true"]).output().is_ok_and(|output| output.status.success())
    });
    let Some(flags) = flags else { return println!("NOT RUN: network namespaces are not permitted here") };
    let adding = ADDRESSES.map(|address| format!("ip address add {address}/32 dev lo"));
    let script = format!("ip link set lo up && {} && exec \"$0\" \"$@\"", adding.join(" && "));
    let program = std::env::current_exe().unwrap();
    let mut inside = Command::new("unshare");
    inside.args([flags, "sh", "-c", &script]).arg(program).args([name, "--exact", "--nocapture"]);
    let output = inside.env(INSIDE, "1").output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success() && said[0].contains("1 passed"), "{}", said.join("\n"));
}

/// A server whose registry containers reach.
pub(crate) async fn server(vars: &[(&str, &str)]) -> Server {
    let registry = format!("{REGISTRY}:0");
    let without_hold = [("REGISTRY_LISTEN", registry.as_str()), ("HOLD", "0s")];
    support::server(&[&without_hold, vars].concat()).await
}

/// A connection to the registry from this address.
pub(crate) async fn connect(server: &Server, from: &str) -> Session {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0)).unwrap();
    Session::on(soon(socket.connect(server.registry_address())).await.unwrap())
}

/// A session from this address.
pub(crate) async fn register(server: &Server, from: &str, service: &str, instance: &str) -> Session {
    let mut session = connect(server, from).await;
    let reply = session.ask(&format!("REGISTER|{service}|{instance}|0|")).await;
    session.id = reply.strip_prefix("ACK|").expect(&reply).to_owned();
    session
}

/// A web server at this address.
pub(crate) async fn backend(at: &str, name: &str) -> Backend {
    Backend::on(TcpListener::bind((at, 0)).await.unwrap(), name, 200)
}
