//! A drain lasts until every server has done with the instance.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::programs::{get, wait_until};
use crate::support::{Cluster, host};

/// A web server that answers at once, but `/slow` only when it is let go.
fn backend() -> (SocketAddr, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (let_go, waits) = channel();
    let waits = Arc::new(Mutex::new(waits));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let waits = Arc::clone(&waits);
            std::thread::spawn(move || serve(stream, &waits));
        }
    });
    (address, let_go)
}

fn serve(mut stream: TcpStream, waits: &Mutex<Receiver<()>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if buffer[..count].starts_with(b"GET /slow") {
            let _ = waits.lock().unwrap().recv();
        }
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nshop").is_err() {
            return;
        }
    }
}

#[test]
fn a_drain_waits_for_the_requests_of_every_server() {
    let cluster = Cluster::start(2);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let (backend, let_go) = backend();
    let mut client = cluster.replicas[leader].client();
    client.register("shop", backend);
    wait_until("all servers serve it", || cluster.all_serve(&host("shop"), "shop"));
    let proxy = cluster.replicas[follower].server.http;
    let slow = std::thread::spawn(move || get(proxy, &host("shop"), "/slow"));
    let in_flight = |client: &mut crate::support::Client| -> u64 {
        let reply = client.ask("DRAIN_STATUS|").unwrap();
        let status = reply.strip_prefix("DRAIN_STATUS_OK|").unwrap_or_else(|| panic!("{reply}"));
        serde_json::from_str::<serde_json::Value>(status).unwrap()["in_flight"].as_u64().unwrap()
    };
    let under_way = || {
        let status = get(cluster.replicas[follower].admin, "localhost", "/status").unwrap().body;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["claims"][0]["members"][0]["in_flight"] == 1
    };
    wait_until("the request is under way", under_way);
    assert!(client.ask("DRAIN_START||1s").unwrap().starts_with("DRAIN_OK|"));
    let begun = Instant::now();
    wait_until("the drain's time is over", || {
        assert!(in_flight(&mut client) > 0, "a request at the other server is still under way");
        begun.elapsed() > Duration::from_secs(2)
    });
    let_go.send(()).unwrap();
    assert_eq!(slow.join().unwrap().map(|answer| answer.status), Some(200));
    wait_until("nothing is in flight anywhere", || in_flight(&mut client) == 0);
}
