use std::path::{Path, PathBuf};

use super::cli::Invocation;
use super::*;
use crate::sidecar::maintenance::end_expired_windows;
use registry_client::{Client, ClientConfig, Endpoint, Intent, Route, Visibility};

/// A daemon's socket in a folder of its own.
async fn daemon() -> (tempfile::TempDir, PathBuf, DaemonState, Maintenance) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let (state, maintenance) = fresh();
    tokio::spawn(serve(at(&path), state.clone(), maintenance.clone()));
    let connected = async {
        while UnixStream::connect(&path).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(MAX_TIME, connected).await.unwrap();
    (folder, path, state, maintenance)
}

fn at(path: &Path) -> ControlSocket {
    ControlSocket { path: Some(path.to_owned()), owner: None }
}

/// The state of a daemon that has just started.
fn fresh() -> (DaemonState, Maintenance) {
    let state = DaemonState::new();
    (state.clone(), Maintenance::new(state))
}

async fn run(path: &Path, words: &str) -> (u8, String) {
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let mut out = Vec::new();
    let code = Invocation::parse(&words).unwrap().run(&at(path), &mut out).await.unwrap();
    (code, String::from_utf8(out).unwrap())
}

/// A client that never reaches anybody.
fn offline() -> Client {
    let domains = registry_client::protocol::Domains::new(["example.com".parse().unwrap()]).unwrap();
    let route = Route::new(domains, "/admin".parse().unwrap(), "http://h:1".parse().unwrap());
    let intent = Intent::new("web".parse().unwrap(), "web-1".parse().unwrap()).with_route("main", route);
    Client::start(ClientConfig::new(Endpoint::new("127.0.0.1", 9)), intent).0
}

#[tokio::test]
async fn without_a_daemon_there_is_a_sensible_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nobody.sock");
    let (code, text) = run(&path, "status").await;
    assert!(code == 69 && text.contains("no registry-sidecar is running here"), "{code} {text}");
    assert_eq!(run(&path, "healthcheck").await.0, 1);
    let (_, json) = run(&path, "status --json").await;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["ok"], false);
}

#[tokio::test]
async fn the_status_tells_how_the_application_stands() {
    let (_folder, path, state, _) = daemon().await;
    let (code, text) = run(&path, "status").await;
    assert!(code == 0 && text.contains("not ready") && text.contains("nothing is registered"), "{text}");
    state.change_conditions(|conditions| conditions.ready = true);
    state.set_clients(vec![offline()]);
    let (_, text) = run(&path, "status").await;
    assert!(
        text.contains("live, because the application is ready") && text.contains("/admin -> http://h:1/"),
        "{text}"
    );
    let (_, json) = run(&path, "status --json").await;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["wanted"], "live");
}

#[tokio::test]
async fn maintenance_and_drain_are_conditions_of_the_whole_instance() {
    let (_folder, path, state, _) = daemon().await;
    state.change_conditions(|conditions| conditions.ready = true);
    run(&path, "drain").await;
    assert_eq!(state.visibility(), Visibility::Draining);
    run(&path, "maintenance enter").await;
    assert_eq!(state.visibility(), Visibility::Maintenance);
    let (_, text) = run(&path, "maintenance progress 40 migrating").await;
    assert!(text.contains("40 %") && text.contains("migrating"), "{text}");
    run(&path, "maintenance exit").await;
    run(&path, "drain --cancel").await;
    assert_eq!(state.visibility(), Visibility::Live);
}

#[tokio::test]
async fn maintenance_has_a_reason_and_ends_by_itself() {
    let (_folder, path, state, maintenance) = daemon().await;
    state.change_conditions(|conditions| conditions.ready = true);
    tokio::spawn(end_expired_windows(maintenance));
    let (code, text) = run(&path, "maintenance enter --reason moving --for 30m").await;
    assert!(code == 0 && text.contains("window       ALL, for 0s, ends by itself in 29m"), "{text}");
    assert!(text.contains(": moving"), "{text}");
    let (_, text) = run(&path, "status").await;
    assert!(text.contains("ends by itself in 29m") && text.contains(": moving"), "{text}");
    let (_, json) = run(&path, "maintenance status --json").await;
    let told = serde_json::from_str::<Value>(&json).unwrap();
    assert_eq!((&told["windows"][0]["reason"], &told["maintenance"]), (&"moving".into(), &true.into()));

    // The same again, shorter: the window is replaced.
    assert_eq!(run(&path, "maintenance enter --for 10ms").await.0, 0);
    let over = async {
        while state.visibility() == Visibility::Maintenance {
            tokio::task::yield_now().await;
        }
    };
    timeout(MAX_TIME, over).await.unwrap();
    assert!(run(&path, "maintenance status").await.1.contains("maintenance  off"));
}

#[tokio::test]
async fn maintenance_survives_a_restart_in_its_file_and_an_unusable_file_changes_nothing_else() {
    let (folder, path, _state, maintenance) = daemon().await;
    let file = folder.path().join("state.json");
    maintenance.restore(file.clone());
    run(&path, "maintenance enter --reason moving").await;
    let (next, its_maintenance) = fresh();
    its_maintenance.restore(file.clone());
    assert_eq!(next.visibility(), Visibility::Maintenance);
    assert_eq!(its_maintenance.windows().windows().next().unwrap().reason.as_deref(), Some("moving"));
    run(&path, "maintenance exit").await;
    let (next, its_maintenance) = fresh();
    its_maintenance.restore(file.clone());
    assert_ne!(next.visibility(), Visibility::Maintenance);

    std::fs::write(&file, "{").unwrap();
    let (next, its_maintenance) = fresh();
    its_maintenance.restore(file);
    assert_ne!(next.visibility(), Visibility::Maintenance);

    let (_folder, path, state, maintenance) = daemon().await;
    maintenance.restore(folder.path().join("no/such/folder/state.json"));
    let (code, text) = run(&path, "maintenance enter").await;
    assert!(code == 0 && text.contains("warning      it will not survive a restart: cannot write"), "{text}");
    assert_eq!(state.visibility(), Visibility::Maintenance);
}

#[tokio::test]
async fn what_was_entered_can_be_left_before_anything_is_registered() {
    let (folder, path, _state, maintenance) = daemon().await;
    let file = folder.path().join("state.json");
    let text = r#"{"format":1,"maintenance":[{"target":"path:/admin","since":1795000000}]}"#;
    std::fs::write(&file, text).unwrap();
    maintenance.restore(file.clone());
    assert!(run(&path, "maintenance status").await.1.contains("window       /admin"));
    let (code, text) = run(&path, "maintenance exit /other").await;
    assert!(code == 1 && text.contains("nothing is registered yet"), "{text}");
    let (code, text) = run(&path, "maintenance exit /admin").await;
    assert!(code == 0 && !text.contains("/admin"), "{text}");
    assert!(!std::fs::read_to_string(&file).unwrap().contains("/admin"));
}

#[tokio::test]
async fn an_exception_to_maintenance_of_everything_leaves_the_rest_in_it() {
    let (_folder, path, state, _) = daemon().await;
    state.change_conditions(|conditions| conditions.ready = true);
    let client = offline();
    state.set_clients(vec![client.clone()]);
    run(&path, "maintenance enter").await;
    let (_, text) = run(&path, "maintenance exit /admin").await;
    assert!(text.contains("maintenance  on, for a part") && text.contains("not          /admin"), "{text}");
    let mut status = client.watch();
    let all =
        status.wait_for(|status| status.maintenance_wanted == [registry_client::MaintenanceTarget::All]);
    timeout(MAX_TIME, all).await.unwrap().unwrap();
    assert_eq!(state.visibility(), Visibility::Live);
}

#[tokio::test]
async fn maintenance_of_a_path_is_asked_of_the_client_and_an_unknown_one_is_refused() {
    let (_folder, path, state, _) = daemon().await;
    let (code, text) = run(&path, "maintenance enter /admin").await;
    assert!(code == 1 && text.contains("nothing is registered yet"), "{text}");
    let client = offline();
    state.set_clients(vec![client.clone()]);
    let (code, text) = run(&path, "maintenance enter /other").await;
    assert!(code == 1 && text.contains("main (example.com /admin)"), "{text}");
    assert_eq!(run(&path, "maintenance enter /admin").await.0, 0);
    let mut status = client.watch();
    let asked = status.wait_for(|status| !status.maintenance_wanted.is_empty());
    timeout(MAX_TIME, asked).await.unwrap().unwrap();
}

#[tokio::test]
async fn health_is_the_sidecars_and_a_registry_that_is_away_changes_nothing() {
    let (_folder, path, state, _) = daemon().await;
    // An engine would restart the sidecar, and not the application that is not ready.
    assert_eq!(run(&path, "healthcheck").await.0, 0);
    state.set_place("tcp://app:80", false, Some("tcp://app:80: connection refused".to_owned()));
    for words in ["healthcheck --ready", "healthcheck --registered", "status"] {
        let (code, text) = run(&path, words).await;
        assert!(
            (code == 1) == (words != "status") && text.contains("tcp://app:80: connection refused"),
            "{text}"
        );
    }
    state.change_conditions(|conditions| conditions.ready = true);
    state.set_clients(vec![offline()]);
    assert_eq!((run(&path, "healthcheck").await.0, run(&path, "healthcheck --ready").await.0), (0, 0));
    assert!(run(&path, "healthcheck").await.1.contains("but not all of it: tcp://app:80"));
    let refused = async {
        while !run(&path, "status").await.1.contains("because      connection to 127.0.0.1:9 refused") {
            tokio::task::yield_now().await;
        }
    };
    timeout(MAX_TIME, refused).await.unwrap();
    assert_eq!(run(&path, "healthcheck").await.0, 0);
    let (code, text) = run(&path, "healthcheck --registered").await;
    assert!(code == 1 && text.contains("no route is live"), "{text}");
}

#[tokio::test]
async fn around_a_command_health_is_the_applications() {
    let (_folder, path, state, _) = daemon().await;
    state.set_command(crate::sidecar::state::CommandStatus::default());
    assert_eq!(run(&path, "healthcheck").await.0, 1);
    state.change_conditions(|conditions| conditions.ready = true);
    assert_eq!(run(&path, "healthcheck").await.0, 0);
}

#[tokio::test]
async fn a_sidecar_without_a_network_is_unhealthy() {
    let (_folder, path, state, _) = daemon().await;
    state.change_conditions(|conditions| (conditions.ready, conditions.stranded) = (true, true));
    for words in ["healthcheck", "healthcheck --ready"] {
        let (code, text) = run(&path, words).await;
        assert!(code == 1 && text.contains("only the loopback interface"), "{text}");
    }
}

#[tokio::test]
async fn an_application_whose_address_is_not_known_is_unhealthy_and_everybody_says_why() {
    let (_folder, path, state, _) = daemon().await;
    state.change_conditions(|conditions| conditions.ready = true);
    state.set_address_problem(Some("BACKEND_HOST app has the addresses A, B".to_owned()));
    assert_eq!(state.visibility(), Visibility::Draining);
    for words in ["healthcheck", "healthcheck --registered", "status"] {
        let (code, text) = run(&path, words).await;
        assert!(
            text.contains("has the addresses A, B") && (code == 1) == (words != "status"),
            "{code} {text}"
        );
    }
    state.set_address_problem(None);
    assert_eq!((run(&path, "healthcheck").await.0, state.visibility()), (0, Visibility::Live));
}

#[tokio::test]
async fn events_are_told_afterwards_and_as_they_happen() {
    let (_folder, path, state, _) = daemon().await;
    let missed = |count| registry_client::Event::Missed(count);
    state.record("proxy:81", &missed(3));
    let (_, text) = run(&path, "events").await;
    assert!(text.starts_with("LOG ") && text.contains("proxy:81: 3 events"), "{text}");

    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"{\"command\":\"events\",\"follow\":true}\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut next = async || timeout(MAX_TIME, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(next().await.contains("\"missed\":3"));
    state.record("proxy:81", &missed(4));
    assert!(next().await.contains("\"missed\":4"));
}

#[test]
fn only_the_own_user_and_root_may_ask_and_nobody_from_outside() {
    let own = rustix::process::getuid().as_raw();
    assert!(is_authorized(own, Some(1)) && is_authorized(0, Some(1)));
    assert!(!is_authorized(own + 1, Some(1)) && !is_authorized(own, Some(0)));
}

#[tokio::test]
async fn what_is_no_request_is_refused_in_bounded_memory() {
    let (_folder, path, ..) = daemon().await;
    for request in ["{}\n".to_owned(), "x".repeat(2 * MAX_REQUEST as usize)] {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        // The daemon may have stopped reading before everything is written.
        drop(stream.write_all(request.as_bytes()).await);
        let mut answer = String::new();
        drop(timeout(MAX_TIME, stream.read_to_string(&mut answer)).await.unwrap());
        assert!(answer.is_empty() || answer.contains("no request"), "{answer}");
    }
}
