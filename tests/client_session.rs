//! What a registry sees of the client, and what the client's user sees of the registry: stories over real
//! connections, and over connections in memory where virtual time matters.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail")]

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use registry_client::protocol::{Domains, EventKind, HealthCheck, PathPrefix, RouteId, RouteOption};
use registry_client::testing::{MemoryRegistry, ScriptedLink, ScriptedRegistry};
use registry_client::{
    BackendTestError, CallError, Cause, Client, ClientConfig, ConnectError, Endpoint, Event, EventStream,
    Intent, Phase, Resolver, Route, RouteError, RouteStatus, Stopped, TcpConnector, WaitError,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

fn route(domain: &str, backend: &str) -> Route {
    let domains = Domains::new([domain.parse().unwrap()]).unwrap();
    Route::new(domains, PathPrefix::root(), backend.parse().unwrap())
}

fn intent() -> Intent {
    Intent::new("web".parse().unwrap(), "web-1".parse().unwrap())
        .with_route("main", route("example.com", "http://10.2.2.7:8080"))
}

fn endpoint_of(address: SocketAddr) -> Endpoint {
    Endpoint::new(address.ip().to_string(), address.port())
}

/// Retries fast, so that no test waits; everything else as it is by default.
fn impatient(endpoint: Endpoint) -> ClientConfig {
    let mut config = ClientConfig::new(endpoint);
    config.reconnect_min = Duration::from_millis(1);
    config.reconnect_max = Duration::from_millis(20);
    config
}

fn start(registry: &ScriptedRegistry, intent: Intent) -> (Client, EventStream) {
    Client::start(impatient(endpoint_of(registry.address)), intent)
}

fn start_in_memory(intent: Intent) -> (Client, EventStream, MemoryRegistry) {
    let (registry, connector) = MemoryRegistry::new();
    let config = ClientConfig::new(Endpoint::new("proxy", 81));
    let (client, events) = Client::start_with(connector, config, intent);
    (client, events, registry)
}

/// SESSION_OK of our own server.
fn info(revision: u64) -> String {
    format!(r#"SESSION_OK|{{"revision":{revision},"server":"registry-server/0.1.0"}}"#)
}

/// Plays the registry's part of a fresh session `id` up to the apply of the one route, which is left open.
async fn register<S: AsyncRead + AsyncWrite + Unpin>(link: &mut ScriptedLink<S>, id: &str) {
    link.play(&format!(
        "> REGISTER|web|web-1|0|{{}}
         < ACK|{id}
         > SESSION_INFO|{id}
         < {}
         > ROUTE_ADD|{id}|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r1
         > CONFIG_APPLY|{id}",
        info(0)
    ))
    .await;
}

/// More than anything here takes, real or virtual: a test that waits in vain fails.
const PATIENCE: Duration = Duration::from_secs(60);

async fn in_time<T>(waiting: impl Future<Output = T>) -> T {
    timeout(PATIENCE, waiting).await.expect("it takes too long")
}

async fn live(client: &Client) {
    client.wait_settled(PATIENCE).await.unwrap();
}

/// Reads events until the one of this name.
async fn until(events: &mut EventStream, name: &str) -> Event {
    loop {
        let event = in_time(events.next()).await.unwrap_or_else(|| panic!("no {name}"));
        if event.name() == name {
            return event;
        }
    }
}

#[tokio::test]
async fn registers_stages_applies_and_leaves_in_order() {
    let registry = ScriptedRegistry::listen().await;
    let check = HealthCheck {
        path: "/health".parse().unwrap(),
        interval: "30s".parse().unwrap(),
        timeout: "5s".parse().unwrap(),
    };
    let main = route("example.com", "http://10.2.2.7:8080")
        .with_health(check)
        .with_option(RouteOption::Compression(true));
    let (client, mut events) = start(&registry, intent().with_route("main", main));
    let mut link = registry.accept().await;
    link.play(&format!(
        "> REGISTER|web|web-1|0|{{}}
         < ACK|S1
         > SESSION_INFO|S1
         < {}
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r1
         > OPTIONS_SET|S1|r1|compression|true
         < OPTIONS_OK
         > HEALTH_SET|S1|r1|/health|30s|5s
         < HEALTH_OK
         > CONFIG_APPLY|S1
         < OK",
        info(0)
    ))
    .await;
    live(&client).await;
    assert_eq!(client.status().routes["main"], RouteStatus::Applied(RouteId(1)));

    let leaving = tokio::spawn({
        let client = client.clone();
        async move { client.shutdown().await }
    });
    link.play("> CLIENT_SHUTDOWN|S1\n< SHUTDOWN_OK").await;
    in_time(leaving).await.unwrap();
    link.expect_end().await;
    let mut names = Vec::new();
    while let Some(event) = in_time(events.next()).await {
        names.push(event.name());
    }
    assert_eq!(names, ["CONNECTED", "ROUTE_ADDED", "HEALTH_CHECK_SET", "CONFIG_APPLIED"]);
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_sync_is_noticed_at_once_and_the_session_resumed() {
    let registry = ScriptedRegistry::listen().await;
    let (client, mut events) = start(&registry, intent());
    let mut link = registry.accept().await;
    link.play(&format!("> REGISTER|*\n< ACK|S1\n> SESSION_INFO|S1\n< {}\n> ROUTE_ADD|*", info(0))).await;
    link.reset();
    let Event::Disconnected { cause: Cause::Broken(_), .. } = until(&mut events, "DISCONNECTED").await else {
        panic!("a reset is a broken connection");
    };

    let mut link = registry.accept().await;
    link.play(&format!(
        "> RECONNECT|S1
         < OK
         > CONFIG_ROLLBACK|S1
         < OK
         > SESSION_INFO|S1
         < {}
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < OK",
        info(0)
    ))
    .await;
    live(&client).await;
}

#[tokio::test]
async fn a_loss_is_noticed_and_the_first_retry_made_within_150_ms() {
    let mut took = Vec::new();
    for is_reset in [true, false, true, false, true] {
        let registry = ScriptedRegistry::listen().await;
        // As it is by default, RECONNECT_MIN included; the first pause of each client is that.
        let (client, _events) = Client::start(ClientConfig::new(endpoint_of(registry.address)), intent());
        let mut link = registry.accept().await;
        register(&mut link, "S1").await;
        link.send("OK").await;
        live(&client).await;
        let lost = Instant::now();
        if is_reset {
            link.reset();
        } else {
            drop(link);
        }
        let _link = registry.accept().await;
        took.push(lost.elapsed());
    }
    took.sort();
    // The median: a busy machine may be late now and then.
    assert!(took[2] <= Duration::from_millis(150), "{took:?}");
}

#[tokio::test]
async fn an_apply_whose_reply_was_lost_is_not_doubled() {
    let registry = ScriptedRegistry::listen().await;
    let (client, _events) = start(&registry, intent());
    let mut link = registry.accept().await;
    register(&mut link, "S1").await;
    drop(link);
    let mut link = registry.accept().await;
    link.play(&format!("> RECONNECT|S1\n< OK\n> CONFIG_ROLLBACK|S1\n< OK\n> SESSION_INFO|S1\n< {}", info(1)))
        .await;
    live(&client).await;
    assert_eq!(client.status().revision, Some(1));
}

#[tokio::test]
async fn a_restarted_registry_without_memory_gets_everything_again() {
    let registry = ScriptedRegistry::listen().await;
    let (client, mut events) = start(&registry, intent());
    let mut link = registry.accept().await;
    register(&mut link, "S1").await;
    link.send("OK").await;
    live(&client).await;
    link.send("SHUTDOWN").await;
    let Event::Disconnected { cause: Cause::ServerShutdown, .. } = until(&mut events, "DISCONNECTED").await
    else {
        panic!("the registry said why");
    };
    let mut link = registry.accept().await;
    link.play("> RECONNECT|S1\n< REREGISTER").await;
    register(&mut link, "S2").await;
    link.send("OK").await;
    let Event::Reconnected { resumed: false, .. } = until(&mut events, "RECONNECTED").await else {
        panic!("it is a new session");
    };
    live(&client).await;
}

#[tokio::test]
async fn a_token_that_has_changed_goes_with_the_next_registration() {
    let registry = ScriptedRegistry::listen().await;
    let (client, mut events) = start(&registry, intent());
    let mut link = registry.accept().await;
    register(&mut link, "S1").await;
    link.send("OK").await;
    live(&client).await;
    client.set_metadata(intent().with_metadata("token", "second".into()).metadata).unwrap();
    drop(link);
    until(&mut events, "DISCONNECTED").await;
    let mut link = registry.accept().await;
    link.play("> RECONNECT|S1\n< REREGISTER").await;
    link.expect(r#"REGISTER|web|web-1|0|{"token":"second"}"#).await;
}

#[tokio::test]
async fn who_was_replaced_waits_until_told_to_take_over() {
    let registry = ScriptedRegistry::listen().await;
    let (client, mut events) = start(&registry, intent());
    let mut link = registry.accept().await;
    register(&mut link, "S1").await;
    link.send("ERROR|session replaced").await;
    let Event::Replaced { service, instance, .. } = until(&mut events, "ERROR").await else {
        panic!("it says who was replaced");
    };
    assert_eq!((service.as_str(), instance.as_str()), ("web", "web-1"));
    for _ in 0..5 {
        link.play("> RECONNECT|S1\n< ERROR|session replaced").await;
    }
    client.take_over().await.unwrap();
    // A question may be on its way.
    while let Some(line) = link.line().await {
        match line.as_str() {
            "RECONNECT|S1" => link.send("ERROR|session replaced").await,
            "REGISTER|web|web-1|0|{}" => break,
            other => panic!("neither a question nor a registration: {other}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_registry_is_noticed_within_keepalive_interval_and_request_timeout() {
    let (client, mut events, mut registry) = start_in_memory(intent());
    let mut link = registry.accept().await;
    register(&mut link, "S1").await;
    link.send("OK").await;
    live(&client).await;
    let live = Instant::now();
    link.expect("PING|S1").await;
    let Event::Disconnected { cause, .. } = until(&mut events, "DISCONNECTED").await else {
        panic!("no cause");
    };
    assert_eq!(cause, Cause::Silent { command: "PING", after: Duration::from_secs(10) });
    assert!(live.elapsed() <= Duration::from_millis(40_010), "{:?}", live.elapsed());
    link.expect_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_never_answers_delays_a_stop_by_half_a_second() {
    let (client, _events, mut registry) = start_in_memory(intent());
    let mut link = registry.accept().await;
    register(&mut link, "S1").await;
    let before = Instant::now();
    in_time(client.shutdown()).await;
    assert!((500..=510).contains(&before.elapsed().as_millis()), "{:?}", before.elapsed());
    link.expect("CLIENT_SHUTDOWN|S1").await;
    link.expect_end().await;
    assert_eq!(client.status().phase, Phase::Stopped);
    assert_eq!(client.wait_settled(PATIENCE).await, Err(WaitError::Stopped));
    assert_eq!(client.remove_route("main"), Err(RouteError::Stopped(Stopped)));
    assert_eq!(client.events().next().await, None);
    client.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_dropped_leaves_in_order() {
    let (client, mut events, mut registry) = start_in_memory(intent());
    let mut link = registry.accept().await;
    register(&mut link, "S1").await;
    drop(client.clone());
    drop(client);
    link.play("> CLIENT_SHUTDOWN|S1\n< OK\n< SHUTDOWN_OK").await;
    link.expect_end().await;
    while in_time(events.next()).await.is_some() {}
}

/// Answers after a number of failures, or never.
#[derive(Clone)]
struct Scripted {
    failures: Arc<AtomicU32>,
    then: Option<SocketAddr>,
}

impl Resolver for Scripted {
    async fn resolve(&self, _: &Endpoint) -> io::Result<Vec<SocketAddr>> {
        let failing =
            self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match (failing, self.then) {
            (Ok(_), _) => Err(io::Error::other("temporary failure in name resolution")),
            (Err(_), Some(address)) => Ok(vec![address]),
            (Err(_), None) => std::future::pending().await,
        }
    }
}

fn start_resolving(resolver: Scripted) -> (Client, EventStream) {
    let config = impatient(Endpoint::new("proxy", 81));
    let connector =
        TcpConnector::new(config.endpoint.clone(), config.connect_timeout).with_resolver(resolver);
    Client::start_with(connector, config, intent())
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_tried_until_it_does() {
    let registry = ScriptedRegistry::listen().await;
    let failures = Arc::new(AtomicU32::new(8));
    let (client, mut events) = start_resolving(Scripted { failures, then: Some(registry.address) });
    let Event::Retrying(retry) = until(&mut events, "RETRYING").await else { panic!("no retry") };
    let Cause::Connect(ConnectError::NameNotFound { host, .. }) = retry.cause else {
        panic!("another cause: {}", retry.cause);
    };
    assert_eq!((host.as_str(), retry.attempt), ("proxy", 1));
    until(&mut events, "EXTENDED_RETRY").await;
    let mut link = registry.accept().await;
    register(&mut link, "S1").await;
    link.send("OK").await;
    live(&client).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_resolution_that_hangs_never_delays_a_stop() {
    let (client, _events) = start_resolving(Scripted { failures: Arc::default(), then: None });
    in_time(client.watch().wait_for(|status| status.phase == Phase::Connecting)).await.unwrap();
    let before = Instant::now();
    in_time(client.shutdown()).await;
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn whatever_answers_and_is_no_registry_is_named_and_tried_again() {
    let endless = vec![b'x'; 3 * 1024 * 1024];
    for (answer, words) in [
        (&b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n"[..], "an HTTP server answers there"),
        (b"220 mail.example.com ESMTP\n", "220 mail.example.com"),
        (b"\xff\xfe\n", "no UTF-8"),
        (b"ACK\n", "unexpected answer to REGISTER"),
        (&endless, ""),
    ] {
        let registry = ScriptedRegistry::listen().await;
        let (client, mut events) = start(&registry, intent());
        let mut link = registry.accept().await;
        link.expect("REGISTER|*").await;
        if words.is_empty() {
            // Without a line end nothing is known of it, but that it is too much once the line ends.
            link.send_bytes(answer).await;
            link.send_bytes(b"\n").await;
        } else {
            link.send_bytes(answer).await;
        }
        let said = until(&mut events, "ERROR").await.to_string();
        let words = if words.is_empty() { "longer than 1048576 bytes" } else { words };
        assert!(said.contains(words), "{said}");
        registry.accept().await.expect("REGISTER|*").await;
        drop(client);
    }
}

#[tokio::test]
async fn what_is_wanted_while_offline_is_made_true_afterwards() {
    let registry = ScriptedRegistry::listen().await;
    let (client, mut events) = start(&registry, intent());
    let mut link = registry.accept().await;
    register(&mut link, "S1").await;
    link.send("OK").await;
    live(&client).await;
    drop(link);
    until(&mut events, "DISCONNECTED").await;

    let again = client.add_route("main", route("example.com", "http://10.2.2.7:8080"));
    assert_eq!(again, Err(RouteError::Exists("main".into())));
    client.add_route("more", route("example.org", "http://10.2.2.7:8080")).unwrap();
    client.update_route("main", route("example.com", "http://10.2.2.9:8080")).unwrap();
    client.remove_route("more").unwrap();
    assert_eq!(client.remove_route("more"), Err(RouteError::Unknown("more".into())));

    let mut link = registry.accept().await;
    link.play(&format!(
        "> RECONNECT|S1
         < OK
         > CONFIG_ROLLBACK|S1
         < OK
         > SESSION_INFO|S1
         < {}
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.9:8080/|10
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_REMOVE|S1|r1
         < ROUTE_OK
         > CONFIG_APPLY|S1
         < OK",
        info(1)
    ))
    .await;
    live(&client).await;
    assert_eq!(client.status().routes["main"], RouteStatus::Applied(RouteId(2)));
}

#[tokio::test]
async fn live_means_what_is_wanted_now_not_what_was_wanted_before() {
    let registry = ScriptedRegistry::listen().await;
    let (client, _events) = start(&registry, intent());
    let mut link = registry.accept().await;
    register(&mut link, "S1").await;
    link.send("OK").await;
    live(&client).await;
    client.remove_route("main").unwrap();
    let reached = client.wait_settled(PATIENCE);
    let script = async {
        link.play("> ROUTE_REMOVE|S1|r1\n< ROUTE_OK\n> CONFIG_APPLY|S1").await;
        let removed = client.status().routes.is_empty() && !client.status().live;
        link.send("OK").await;
        removed
    };
    let (reached, removed) = in_time(async { tokio::join!(reached, script) }).await;
    assert!(reached.is_ok() && removed);
    assert!(client.status().live);
}

#[tokio::test]
async fn a_backend_is_tested_by_the_proxy() {
    let registry = ScriptedRegistry::listen().await;
    let (client, _events) = start(&registry, intent());
    let url = || "http://10.2.2.7:8080".parse().unwrap();
    assert_eq!(client.backend_test(url()).await, Err(BackendTestError::NoSession));
    let mut link = registry.accept().await;
    register(&mut link, "S1").await;
    link.send("OK").await;
    live(&client).await;
    let test = async { client.backend_test(url()).await };
    let script = link.play(
        r#"> BACKEND_TEST|S1|http://10.2.2.7:8080/
           < BACKEND_OK|{"reachable":true,"response_time_ms":1.5,"status_code":200,"tls_valid":false}"#,
    );
    let (report, ()) = tokio::join!(test, script);
    assert_eq!(report.unwrap().status_code, 200);
}

#[tokio::test(start_paused = true)]
async fn what_a_registry_does_not_know_is_a_typed_error_and_what_it_does_not_answer_ends() {
    let (client, mut events, mut registry) = start_in_memory(intent());
    let mut link = registry.accept().await;
    register(&mut link, "S1").await;
    link.send("OK").await;
    live(&client).await;
    for (command, call) in [
        ("STATS_GET|S1|ALL", Box::pin(async { client.stats().await.map(drop) }) as Call<'_>),
        ("CONFIG_DIFF|S1", Box::pin(async { client.diff().await.map(drop) })),
        ("CONFIG_VALIDATE|S1", Box::pin(client.validate())),
        ("CONFIG_ROLLBACK|S1", Box::pin(client.rollback())),
        ("ROUTE_LIST|S1", Box::pin(async { client.registered_routes().await.map(drop) })),
        ("MAINT_STATUS|S1", Box::pin(async { client.maintenance_status().await.map(drop) })),
        ("DRAIN_STATUS|S1", Box::pin(async { client.drain_status().await.map(drop) })),
        ("DRAIN_START|S1|30s", Box::pin(client.drain_start(Duration::from_secs(30)))),
        ("DRAIN_CANCEL|S1", Box::pin(client.drain_cancel())),
        (
            "CIRCUIT_BREAKER_STATUS|S1|r1",
            Box::pin(async { client.circuit_breaker_status("main").await.map(drop) }),
        ),
        ("CIRCUIT_BREAKER_RESET|S1|r1", Box::pin(client.circuit_breaker_reset("main"))),
    ] {
        let name = command.split('|').next().unwrap();
        let script = format!("> {command}\n< ERROR|unknown command: {name}");
        let (answer, ()) = tokio::join!(call, link.play(&script));
        assert_eq!(answer, Err(CallError::Unsupported(name)));
    }
    client.subscribe(EventKind::All).await.unwrap();
    link.play("> SUBSCRIBE|S1|all\n< ERROR|unknown command: SUBSCRIBE").await;
    assert!(until(&mut events, "ERROR").await.to_string().contains("SUBSCRIBE"));

    let before = Instant::now();
    let (answer, ()) = tokio::join!(client.stats(), link.expect("STATS_GET|S1|ALL"));
    assert_eq!(answer, Err(CallError::NoSession));
    assert!(before.elapsed() <= Duration::from_secs(11), "{:?}", before.elapsed());
}

type Call<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(), CallError>> + 'a>>;

/// A writer that keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_line_is_logged_at_debug_and_no_secret_is() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let registry = ScriptedRegistry::listen().await;
    let (client, _events) = start(&registry, intent().with_metadata("token", "t0p-secret".into()));
    let mut link = registry.accept().await;
    link.play(r#"> REGISTER|web|web-1|0|{"token":"t0p-secret"}"#).await;
    link.play(&format!("< ACK|s3ssion\n> SESSION_INFO|s3ssion\n< {}\n> ROUTE_ADD|*", info(0))).await;
    in_time(client.watch().wait_for(|status| status.phase == Phase::Syncing)).await.unwrap();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for shown in
        ["REGISTER|web|web-1|0|{}", "ACK|[redacted]", "SESSION_INFO|[redacted]", "ROUTE_ADD|[redacted]|"]
    {
        assert!(text.contains(shown), "{shown} is not in\n{text}");
    }
    assert!(!text.contains("t0p-secret") && !text.contains("s3ssion"), "{text}");
}
