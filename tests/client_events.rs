//! The events of a client's life, as a listener gets them: all twenty that users of the Go client know, in one life.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail")]

use std::collections::BTreeSet;
use std::time::Duration;

use registry_client::protocol::{Domains, HealthCheck, PathPrefix};
use registry_client::testing::{MemoryRegistry, ScriptedLink};
use registry_client::{
    Client, ClientConfig, Endpoint, Event, EventStream, Intent, MaintenanceTarget, Route, Visibility,
};
use tokio::io::DuplexStream;
use tokio::time::{sleep, timeout};

/// More than anything here takes, in virtual time.
const PATIENCE: Duration = Duration::from_secs(600);
/// When a verdict comes: after the client has helped itself.
const LATE: Duration = Duration::from_secs(35);

fn route(domain: &str) -> Route {
    let domains = Domains::new([domain.parse().unwrap()]).unwrap();
    let check = HealthCheck {
        path: "/up".parse().unwrap(),
        interval: "30s".parse().unwrap(),
        timeout: "5s".parse().unwrap(),
    };
    Route::new(domains, PathPrefix::root(), "http://10.2.2.7:8080".parse().unwrap()).with_health(check)
}

fn start() -> (Client, EventStream, MemoryRegistry) {
    let (registry, connector) = MemoryRegistry::new();
    let mut config = ClientConfig::new(Endpoint::new("proxy", 81));
    // The second retry is at the greatest delay already.
    config.reconnect_max = Duration::from_millis(150);
    let intent = Intent::new("web".parse().unwrap(), "web-1".parse().unwrap());
    let (client, events) =
        Client::start_with(connector, config, intent.with_route("main", route("example.com")));
    (client, events, registry)
}

/// A registry that does as it is told; its second CONFIG_VALIDATE finds something, and its verdicts are late.
#[derive(Default)]
struct Obedient {
    routes: u32,
    revision: u32,
    validated: bool,
}

impl Obedient {
    async fn serve(&mut self, link: &mut ScriptedLink<DuplexStream>) {
        while let Some(line) = link.line().await {
            let mut fields = line.split('|');
            let (command, _) = (fields.next().unwrap(), fields.next());
            for reply in self.replies(command) {
                link.send(&reply).await;
            }
            if command.starts_with("MAINT_E") {
                sleep(LATE).await;
                link.send(&format!("MAINT_OK|{}", fields.next().unwrap())).await;
            }
        }
    }

    fn replies(&mut self, command: &str) -> Vec<String> {
        let reply = match command {
            "REGISTER" => "ACK|S1".to_owned(),
            "SESSION_INFO" => format!(
                r#"SESSION_OK|{{"server":"registry-server/0.1.0","revision":{},"capabilities":["drain"]}}"#,
                self.revision
            ),
            "ROUTE_ADD" => {
                self.routes += 1;
                format!("ROUTE_OK|r{}", self.routes)
            }
            "ROUTE_REMOVE" => "ROUTE_OK".to_owned(),
            "HEALTH_SET" => "HEALTH_OK".to_owned(),
            "CONFIG_APPLY" => {
                self.revision += 1;
                "OK".to_owned()
            }
            "CONFIG_VALIDATE" if std::mem::replace(&mut self.validated, true) => {
                "ERROR|route r9: nonsense".to_owned()
            }
            "MAINT_ENTER" | "MAINT_EXIT" => "ACK".to_owned(),
            "DRAIN_START" => "DRAIN_OK|2026-01-01T00:00:00Z".to_owned(),
            "PING" => "PONG".to_owned(),
            _ => "OK".to_owned(),
        };
        vec![reply]
    }
}

/// Reads events, which are remembered by name, until the one of this name.
async fn until(events: &mut EventStream, seen: &mut BTreeSet<&'static str>, name: &str) -> Event {
    loop {
        let event = timeout(PATIENCE, events.next()).await.unwrap_or_else(|_| panic!("no {name}: {seen:?}"));
        let event = event.unwrap();
        assert!(event.data()["message"].is_string(), "{event:?}");
        seen.insert(event.name());
        if event.name() == name {
            return event;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_twenty_events_are_told_in_one_life() {
    let (client, mut events, mut registry) = start();
    let mut seen = BTreeSet::new();
    let mut obedient = Obedient::default();
    let mut link = registry.accept().await;
    let life = async {
        until(&mut events, &mut seen, "CONFIG_APPLIED").await;
        client.validate().await.unwrap();
        client.validate().await.unwrap_err();
        client.maintenance_enter(MaintenanceTarget::All, None).unwrap();
        let entered = until(&mut events, &mut seen, "MAINT_LOCAL_ENTERED").await;
        assert_eq!((&entered.data()["target"], &entered.data()["mode"]), (&"ALL".into(), &"local".into()));
        until(&mut events, &mut seen, "MAINT_PROXY_ENTERED").await;
        client.maintenance_exit(MaintenanceTarget::All).unwrap();
        until(&mut events, &mut seen, "MAINT_LOCAL_EXITED").await;
        until(&mut events, &mut seen, "MAINT_PROXY_EXITED").await;
        client.change_address([10, 2, 2, 7].into(), [10, 2, 2, 9].into()).unwrap();
        let changed = until(&mut events, &mut seen, "IP_CHANGED").await.data();
        assert_eq!((&changed["old_ip"], &changed["new_ip"]), (&"10.2.2.7".into(), &"10.2.2.9".into()));
        until(&mut events, &mut seen, "ROUTE_REMOVED").await;
        client.set_visibility(Visibility::Draining).unwrap();
        let log = until(&mut events, &mut seen, "LOG").await.data();
        assert_eq!(log["level"], "info");
    };
    tokio::select! {
        () = life => {}
        () = obedient.serve(&mut link) => panic!("the client has gone"),
    }
    drop(link);
    until(&mut events, &mut seen, "RETRYING").await;
    drop(registry.accept().await);
    until(&mut events, &mut seen, "EXTENDED_RETRY").await;
    let mut link = registry.accept().await;
    link.play("> RECONNECT|S1\n< OK").await;
    until(&mut events, &mut seen, "RECONNECTED").await;
    link.send("HTTP/1.1 400 Bad Request").await;
    let error = until(&mut events, &mut seen, "ERROR").await;
    assert!(error.to_string().contains("an HTTP server answers there"), "{error}");
    until(&mut events, &mut seen, "DISCONNECTED").await;

    let known = BTreeSet::from([
        "CONNECTED",
        "DISCONNECTED",
        "RETRYING",
        "EXTENDED_RETRY",
        "RECONNECTED",
        "ROUTE_ADDED",
        "ROUTE_REMOVED",
        "HEALTH_CHECK_SET",
        "CONFIG_APPLIED",
        "MAINT_REQUESTED",
        "MAINT_PROXY_ENTERED",
        "MAINT_LOCAL_ENTERED",
        "MAINT_EXIT_REQUESTED",
        "MAINT_PROXY_EXITED",
        "MAINT_LOCAL_EXITED",
        "CONFIG_VALIDATED",
        "CONFIG_INVALID",
        "LOG",
        "ERROR",
        "IP_CHANGED",
    ]);
    assert_eq!(known.difference(&seen).collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_never_reads_blocks_nothing_and_is_told_how_much_it_missed() {
    let (client, mut events, mut registry) = start();
    let mut link = registry.accept().await;
    let mut obedient = Obedient::default();
    let life = async {
        client.wait_settled(PATIENCE).await.unwrap();
        for number in 0..200 {
            client.add_route(number.to_string(), route(&format!("{number}.example.com"))).unwrap();
            client.wait_settled(PATIENCE).await.unwrap();
        }
    };
    tokio::select! {
        () = life => {}
        () = obedient.serve(&mut link) => panic!("the client has gone"),
    }
    let Some(Event::Missed(count)) = events.next().await else { panic!("it is told first") };
    let mut read = 0;
    while let Ok(Some(_)) = timeout(Duration::from_millis(1), events.next()).await {
        read += 1;
    }
    // CONNECTED, and ROUTE_ADDED, HEALTH_CHECK_SET and CONFIG_APPLIED of each route.
    assert_eq!(count + read, 1 + 3 * 201, "missed {count}, read {read}");
}
