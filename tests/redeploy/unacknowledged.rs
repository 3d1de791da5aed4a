//! A stop where no registry tells that no request is in flight: it is silent, its connection is gone, or it is a reference
//! server. The application's own connections tell.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::programs::{Program, Server, free_address};
use crate::reference::Reference;
use crate::relay::Relay;
use crate::{HOST, SLOW_RATE, application, server, start};

/// More than any of the stops here takes.
const DRAIN: (&str, &str) = ("DRAIN_TIMEOUT", "60s");

fn behind(relay: &Relay, server: &Server) -> Program {
    let (host, port) = (relay.address.ip().to_string(), relay.address.port().to_string());
    let more = [("REGISTRY_HOST", host.as_str()), ("REGISTRY_PORT", port.as_str()), DRAIN];
    let instance = start(server, free_address().port(), "shop-1", &more);
    instance.wait_for_log("live:");
    instance
}

/// TERM while requests go on for a second: none is lost, and then the instance ends.
fn stop_under_load(server: &Server, mut instance: Program, trouble: impl FnOnce()) {
    let load = Load::start(server.http, HOST, SLOW_RATE);
    load.wait_until_busy();
    trouble();
    instance.signal("TERM");
    std::thread::sleep(Duration::from_secs(1));
    load.end_without_a_loss();
    assert_eq!(instance.wait().code(), Some(143), "{:?}", instance.log());
}

#[test]
fn a_registry_that_is_silent_sends_on_and_its_requests_are_answered() {
    let server = server();
    let relay = Relay::start(server.registry);
    let instance = behind(&relay, &server);
    stop_under_load(&server, instance, || relay.stall(true));
}

#[test]
fn a_registry_whose_connection_is_gone_sends_on_and_its_requests_are_answered() {
    let server = server();
    let relay = Relay::start(server.registry);
    let instance = behind(&relay, &server);
    stop_under_load(&server, instance, || {
        relay.stall(true);
        relay.cut();
    });
}

/// A request on a connection that is kept.
fn ask(connection: &mut TcpStream, milliseconds: u32) {
    write!(connection, "GET /{milliseconds} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").unwrap();
}

fn is_answered(connection: &mut TcpStream) -> bool {
    let mut response = [0; 1024];
    connection.read(&mut response).is_ok_and(|length| response[..length].starts_with(b"HTTP/1.1 200"))
}

#[test]
fn idle_connections_of_a_reference_server_do_not_hold_up_the_stop_and_a_request_does() {
    let (server, reference) = (server(), Reference::start());
    let port = reference.address.port().to_string();
    let listen = free_address().port();
    let instance = |more: &[(&'static str, &str)]| {
        let all = [&[("REGISTRY_PORT", port.as_str()), DRAIN], more].concat();
        let instance = start(&server, listen, "shop-1", &all);
        instance.wait_for_log("live:");
        instance
    };
    let address = SocketAddr::from(([127, 0, 0, 1], listen));
    for takes in [None, Some(3000)] {
        let mut instance = instance(&[(application::FIRST_ANSWER, "0")]);
        let mut kept: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
        for connection in &mut kept {
            ask(connection, 1);
            assert!(is_answered(connection));
        }
        if let Some(takes) = takes {
            ask(&mut kept[0], takes);
        }
        let begun = Instant::now();
        instance.signal("TERM");
        if takes.is_some() {
            assert!(is_answered(&mut kept[0]), "the request was in flight when the stop began");
        }
        assert_eq!(instance.wait().code(), Some(143), "{:?}", instance.log());
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }
}
