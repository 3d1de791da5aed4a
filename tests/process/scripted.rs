//! The wrapper with a registry that behaves like the reference server, line by line.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;

use crate::programs::{Program, free_address};
use crate::{PATH, SIDECAR};
use registry_client::testing::{ScriptedLink, ScriptedRegistry};

type Link = ScriptedLink<tokio::net::TcpStream>;

/// A wrapped shell script, registered with `registry`; `PORT` and `DIR` as usual.
fn wrapped(registry: SocketAddr, port: u16, more: &[(&'static str, &str)], script: &str) -> Program {
    let mut env = vec![
        ("PATH", PATH.to_owned()),
        ("REGISTRY_HOST", registry.ip().to_string()),
        ("REGISTRY_PORT", registry.port().to_string()),
        ("SERVICE_NAME", "shop".to_owned()),
        ("INSTANCE_NAME", "shop-1".to_owned()),
        ("DOMAINS", "shop.example.com".to_owned()),
        ("BACKEND_HOST", "127.0.0.1".to_owned()),
        ("PORT", port.to_string()),
        ("SIDECAR_HEALTH_INTERVAL", "0".to_owned()),
        ("SIDECAR_COMPRESSION", "false".to_owned()),
    ];
    env.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    Program::start("sidecar", SIDECAR, &["--", "sh", "-c", script], &env)
}

/// From REGISTER to one route in force as r2, which is what it takes at this server (PROTOCOL section 8, 6).
async fn registered(link: &mut Link, port: u16, page: u16) {
    let add = format!("ROUTE_ADD|S1|shop.example.com|/|http://127.0.0.1:{port}/|10");
    link.play(&format!(
        "> REGISTER|shop|shop-1|{page}|{{}}
         < ACK|S1
         > SESSION_INFO|S1
         < SESSION_OK|{{\"session_id\":\"S1\",\"routes_active\":0}}
         > {add}
         < ROUTE_OK|r1
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_REMOVE|S1|r1
         < ROUTE_OK|r1
         > CONFIG_APPLY|S1
         < OK
         > {add}
         < ROUTE_OK|r2
         > OPTIONS_SET|S1|ALL|websocket|true
         < OPTIONS_OK
         > CONFIG_APPLY|S1
         < OK"
    ))
    .await;
}

/// The proxy's own look at the backend.
async fn tested(link: &mut Link, port: u16) {
    link.play(&format!(
        "> BACKEND_TEST|S1|http://127.0.0.1:{port}/
         < BACKEND_OK|{{\"reachable\":true,\"response_time_ms\":1,\"status_code\":200,\"tls_valid\":false}}"
    ))
    .await;
}

/// Waits until the program has logged this, and answers its questions about its routes meanwhile.
async fn logged(link: &mut Link, program: &Program, text: &str) {
    link.answer_watch_until(|| program.log().iter().any(|line| line.contains(text))).await;
}

const TELLING: &str =
    "trap 'echo told; kill $!; exit 5' TERM; caddy respond --listen 127.0.0.1:$PORT x & wait; wait";

fn was_told(program: &Program) -> bool {
    program.log().iter().any(|line| line == "told")
}

#[tokio::test]
async fn the_routes_are_out_before_the_command_gets_its_signal() {
    let (registry, port) = (ScriptedRegistry::listen().await, free_address().port());
    let mut program = wrapped(registry.address, port, &[], TELLING);
    let mut link = registry.accept().await;
    registered(&mut link, port, 0).await;
    tested(&mut link, port).await;
    logged(&mut link, &program, "live:").await;
    program.signal("TERM");
    // Its drain would be an outage, so that there is none.
    link.expect("CLIENT_SHUTDOWN|S1").await;
    assert!(!was_told(&program), "{:?}", program.log());
    link.send("SHUTDOWN_OK").await;
    tokio::task::spawn_blocking(move || {
        assert_eq!(program.wait().code(), Some(5));
        assert!(was_told(&program), "{:?}", program.log());
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_this_server_cannot_count_is_waited_for_by_the_connections_that_there_are() {
    let (registry, port) = (ScriptedRegistry::listen().await, free_address().port());
    let mut program = wrapped(registry.address, port, &[("SIDECAR_DRAIN_TIMEOUT", "1h")], TELLING);
    let mut link = registry.accept().await;
    registered(&mut link, port, 0).await;
    tested(&mut link, port).await;
    logged(&mut link, &program, "live:").await;
    // A request that is on its way from the proxy.
    let mut request = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    request.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    program.signal("TERM");
    link.play("> CLIENT_SHUTDOWN|S1\n< SHUTDOWN_OK").await;
    program.wait_for_log("waiting for requests on 1 connections to the application to end");
    assert!(!was_told(&program), "{:?}", program.log());
    drop(request);
    tokio::task::spawn_blocking(move || assert_eq!(program.wait().code(), Some(5))).await.unwrap();
}

#[tokio::test]
async fn a_command_that_ends_by_itself_is_taken_out_before_anything_else_happens() {
    let (registry, port) = (ScriptedRegistry::listen().await, free_address().port());
    let env = [("SIDECAR_RESTART", "always"), ("SIDECAR_RESTART_DELAY", "1h")];
    let program = wrapped(registry.address, port, &env, TELLING);
    let mut link = registry.accept().await;
    registered(&mut link, port, 0).await;
    tested(&mut link, port).await;
    let below = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", program.id())).unwrap();
    assert!(Command::new("kill").args(["-TERM", below.trim()]).status().unwrap().success());
    link.expect("CLIENT_SHUTDOWN|S1").await;
    assert!(!program.log().iter().any(|line| line.contains("starting it again")), "{:?}", program.log());
    link.send("SHUTDOWN_OK").await;
    program.wait_for_log("starting it again in 3600s");
}

#[tokio::test]
async fn steps_run_behind_a_page_that_is_entered_after_the_apply_and_left_when_the_command_answers() {
    let (registry, port, page) =
        (ScriptedRegistry::listen().await, free_address().port(), free_address().port());
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let step = format!("until [ -e {} ]; do sleep 0.02; done", go.display());
    let page_port = page.to_string();
    let env = [("MAINTENANCE_PORT", page_port.as_str()), ("SIDECAR_PRE_START", step.as_str())];
    let program = wrapped(registry.address, port, &env, TELLING);
    let mut link = registry.accept().await;
    registered(&mut link, port, page).await;
    link.play(&format!("> MAINT_ENTER|S1|r2|http://127.0.0.1:{page}/\n< ACK\n< MAINT_OK|r2")).await;
    logged(&mut link, &program, "the proxy shows the page").await;
    std::fs::write(&go, "").unwrap();
    link.play("> MAINT_EXIT|S1|r2\n< ACK\n< MAINT_OK|r2").await;
    tested(&mut link, port).await;
    logged(&mut link, &program, "live:").await;
}

#[tokio::test]
async fn the_command_is_stopped_for_its_update_when_the_page_is_confirmed_and_not_before() {
    let (registry, port, page) =
        (ScriptedRegistry::listen().await, free_address().port(), free_address().port());
    let page_port = page.to_string();
    let env = [
        ("MAINTENANCE_PORT", page_port.as_str()),
        ("SIDECAR_UPDATE_CHECK", "true"),
        ("SIDECAR_UPDATE_COMMAND", "true"),
        ("UPDATE_CHECK_INTERVAL", "1s"),
    ];
    let mut program = wrapped(registry.address, port, &env, TELLING);
    let mut link = registry.accept().await;
    registered(&mut link, port, page).await;
    tested(&mut link, port).await;
    link.expect(&format!("MAINT_ENTER|S1|r2|http://127.0.0.1:{page}/")).await;
    link.send("ACK").await;
    assert!(!was_told(&program), "{:?}", program.log());
    link.send("MAINT_OK|r2").await;
    link.play("> MAINT_EXIT|S1|r2\n< ACK").await;
    assert!(was_told(&program), "{:?}", program.log());
    link.send("MAINT_OK|r2").await;
    logged(&mut link, &program, "the update is done").await;
    let log = program.log().join("\n");
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("no {what:?} in\n{log}"));
    assert!(at("the proxy shows the page") < at("sending SIGTERM to the command"), "{log}");
    program.kill();
}
