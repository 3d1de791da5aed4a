//! Who may do what (SEMANTICS section 9), asked of the real server: what is refused leaves no state, and no secret is
//! shown anywhere, at whatever log level.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "support/line.rs"]
mod line;
#[path = "support/programs.rs"]
mod programs;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use line::Line;
use programs::{Server, free_address, get, status, wait_until};

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
const TOKEN: &str = "registry-secret-0815";
const SERVICE_TOKEN: &str = "service-secret-4711";

fn page(admin: SocketAddr, path: &str) -> String {
    get(admin, "localhost", path).unwrap().body
}

/// How many sessions the server has, by its own account.
fn sessions(admin: SocketAddr) -> u64 {
    let status: serde_json::Value = serde_json::from_str(&page(admin, "/status")).unwrap();
    status["sessions"].as_u64().unwrap()
}

#[test]
fn a_peer_that_registry_allow_does_not_name_is_not_even_read() {
    let admin = free_address();
    let server =
        Server::start(SERVER, &[("REGISTRY_ALLOW", "10.0.0.0/8"), ("ADMIN_LISTEN", &admin.to_string())]);
    let mut line = Line::open(server.registry).unwrap();
    assert_eq!(line.ask("REGISTER|web|web-1|0|{}"), None);
    server.program.wait_for_log("not in REGISTRY_ALLOW");
    assert_eq!(sessions(admin), 0);
}

#[test]
fn without_the_registrys_token_there_is_no_state() {
    let admin = free_address();
    let server = Server::start(SERVER, &[("REGISTRY_TOKEN", TOKEN), ("ADMIN_LISTEN", &admin.to_string())]);
    for wrong in ["null", "{}", r#"{"token":"registry-secret-0816"}"#, r#"{"token":""}"#, r#"{"token":815}"#]
    {
        let mut line = Line::open(server.registry).unwrap();
        let reply = line.ask(&format!("REGISTER|web|web-1|0|{wrong}"));
        assert_eq!(reply.as_deref(), Some("ERROR|wrong registry token"), "{wrong}");
        assert_eq!(line.read(), None, "who guesses has to connect again");
    }
    assert_eq!(sessions(admin), 0);
    let mut line = Line::open(server.registry).unwrap();
    let right = line.ask(&format!(r#"REGISTER|web|web-1|0|{{"token":"{TOKEN}"}}"#)).unwrap();
    assert!(right.starts_with("ACK|"), "{right}");
    assert_eq!(sessions(admin), 1);
}

#[test]
fn a_service_with_a_token_is_joined_with_it_and_not_without() {
    let admin = free_address();
    let server = Server::start(SERVER, &[("ADMIN_LISTEN", &admin.to_string())]);
    let mut first = Line::open(server.registry).unwrap();
    let with = |token: &str| format!(r#"REGISTER|web|web-1|0|{{"service_token":"{token}"}}"#);
    assert!(first.ask(&with(SERVICE_TOKEN)).unwrap().starts_with("ACK|"));
    for wrong in ["REGISTER|web|web-2|0|{}".to_owned(), with("service-secret-4712")] {
        let mut second = Line::open(server.registry).unwrap();
        assert_eq!(second.ask(&wrong).as_deref(), Some("ERROR|wrong service token"), "{wrong}");
        assert_eq!(second.read(), None, "who guesses has to connect again");
    }
    assert_eq!(sessions(admin), 1);
    let mut second = Line::open(server.registry).unwrap();
    assert!(second.ask(&with(SERVICE_TOKEN)).unwrap().starts_with("ACK|"));
}

#[test]
fn a_policy_decides_who_claims_what_and_is_followed_as_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.json");
    std::fs::write(&file, r#"{"services": {"shop": ["shop.example.com"]}}"#).unwrap();
    let server = Server::start(SERVER, &[("REGISTRY_POLICY", file.to_str().unwrap())]);
    let mut line = Line::open(server.registry).unwrap();
    assert!(line.ask("REGISTER|shop|shop-1|0|{}").unwrap().starts_with("ACK|"));
    let mut add = |domain: &str| line.ask(&format!("ROUTE_ADD||{domain}|/|http://127.0.0.1:9|0")).unwrap();
    assert_eq!(add("shop.example.com"), "ROUTE_OK|r1");
    let refused = "ERROR|not allowed: domain bank.example.com for service shop";
    assert_eq!(add("bank.example.com"), refused);
    // However it is asked for, nothing of it is staged.
    let bulk = r#"[{"domains":["shop.example.com","bank.example.com"],"path":"/b","backend_url":"http://127.0.0.1:9"}]"#;
    assert_eq!(line.ask(&format!("ROUTE_ADD_BULK||{bulk}")).unwrap(), refused);
    assert_eq!(line.ask("ROUTE_UPDATE||r1|domains|bank.example.com").unwrap(), refused);
    let list = line.ask("ROUTE_LIST|").unwrap();
    assert!(list.contains(r#""domains":["shop.example.com"]"#) && !list.contains("bank"), "{list}");
    let mut add = |domain: &str| line.ask(&format!("ROUTE_ADD||{domain}|/|http://127.0.0.1:9|0")).unwrap();

    // What is wrong is said, and changes nothing.
    std::fs::write(&file, r#"{"services": {"shop": ["bank.example.com"]"#).unwrap();
    server.program.wait_for_log("the policy before stays in force");
    assert_eq!(add("bank.example.com"), refused);
    std::fs::write(&file, r#"{"services": {"shop": ["*.example.com"]}}"#).unwrap();
    server.program.wait_for_log("has changed and is in force");
    wait_until("the new policy is in force", || add("bank.example.com").starts_with("ROUTE_OK|"));
    // As an editor does it that writes another file and renames it.
    let other = folder.path().join("policy.new");
    std::fs::write(&other, r#"{"services": {"shop": ["shop.example.com"]}}"#).unwrap();
    std::fs::rename(&other, &file).unwrap();
    wait_until("the one before is in force again", || add("bank.example.com") == refused);
}

/// Everything that the server says anywhere, in the most talkative setting, searched for what it must not say.
#[test]
fn no_secret_is_in_a_log_line_a_reply_an_export_the_status_or_a_metric() {
    let folder = tempfile::tempdir().unwrap();
    let (admin, state) = (free_address(), folder.path().join("registry.redb"));
    let admin_text = admin.to_string();
    let env = [
        ("REGISTRY_TOKEN", TOKEN),
        ("LOG_LEVEL", "trace"),
        ("ACCESS_LOG", "json"),
        ("ADMIN_LISTEN", &admin_text),
        ("STATE_FILE", state.to_str().unwrap()),
    ];
    let mut server = Server::start(SERVER, &env);
    let mut line = Line::open(server.registry).unwrap();
    let metadata = format!(r#"{{"token":"{TOKEN}","service_token":"{SERVICE_TOKEN}","version":"1"}}"#);
    let mut replies = Vec::new();
    let ack = line.ask(&format!("REGISTER|web|web-1|0|{metadata}")).unwrap();
    let id = ack.strip_prefix("ACK|").expect(&ack).to_owned();
    let mut ask = |text: &str| replies.push(line.ask(text).expect(text));
    for text in [
        "ROUTE_ADD||a.example.com|/|http://127.0.0.1:9|0",
        "CONFIG_APPLY|",
        &format!("PING|{id}"),
        "ROUTE_LIST|",
        "CONFIG_DIFF|",
        "MAINT_STATUS|",
        "STATS_GET|",
        // Malformed in every way that could make somebody quote it.
        &format!("REGISTER|web|web-1|x|{metadata}"),
        &format!("REGISTER|web|web-1|0|{metadata}}}"),
        &format!("REGISTER|web|{metadata}"),
        &format!("register|web|web-1|0|{metadata}"),
        &format!("PING|{id}x"),
        &format!("RECONNECT|{id}x"),
    ] {
        ask(text);
    }
    let mut stranger = Line::open(server.registry).unwrap();
    replies.push(stranger.ask(&format!("REGISTER|web|web-2|0|{{\"token\":\"{TOKEN}\"}}")).unwrap());
    let mut stranger = Line::open(server.registry).unwrap();
    replies.push(stranger.ask(&format!("REGISTER|web|web-2|0|{{\"token\":\"{SERVICE_TOKEN}\"}}")).unwrap());
    let info = line.ask("SESSION_INFO|").unwrap();
    assert!(info.contains(r#""metadata":{"version":"1"}"#), "{info}");
    // Its own id is for its owner, and in this reply alone.
    replies.push(info.replace(&id, "[its own id]"));
    status(server.http, "a.example.com", "/");
    let pages = ["/status", "/metrics"].map(|path| page(admin, path));

    server.program.signal("TERM");
    assert_eq!(server.program.wait().code(), Some(0));
    let export = Command::new(SERVER).arg("export").env_clear().env("STATE_FILE", &state).output().unwrap();
    assert!(export.status.success());
    let export = String::from_utf8(export.stdout).unwrap();
    assert!(export.contains(r#""service_token_hash""#), "{export}");
    let file = String::from_utf8_lossy(&std::fs::read(&state).unwrap()).into_owned();
    let log = server.program.log().join("\n");
    assert!(
        log.contains("DEBUG") && log.contains("REGISTER|web|web-1"),
        "the log is as talkative as it gets"
    );

    let random = id.rsplit('-').next().unwrap();
    let said = [replies.join("\n"), log, pages.join("\n"), export, file];
    for (place, said) in ["replies", "log", "pages", "export", "state file"].iter().zip(&said) {
        for secret in [TOKEN, SERVICE_TOKEN, random] {
            assert!(!said.contains(secret), "{secret} is in the {place}");
        }
    }
}

#[test]
fn a_configuration_with_a_token_is_judged_without_showing_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let in_two_lines = format!("{TOKEN}\n{TOKEN}");
    std::fs::write(&file, &in_two_lines).unwrap();
    let file = file.to_str().unwrap();
    for (env, code) in [
        (&[("REGISTRY_TOKEN", TOKEN)][..], 0),
        (&[("REGISTRY_TOKEN", TOKEN), ("REGISTRY_LISTEN", "nowhere")], 64),
        (&[("REGISTRY_TOKEN", &in_two_lines)], 64),
        (&[("REGISTRY_TOKEN_FILE", file)], 64),
        (&[("REGISTRY_TOKEN", TOKEN), ("REGISTRY_TOKEN_FILE", file)], 64),
    ] {
        let output =
            Command::new(SERVER).arg("check").env_clear().envs(env.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(!said.contains(TOKEN), "{said}");
    }
}

#[test]
fn a_policy_that_cannot_be_used_is_an_error_of_the_configuration() {
    let check = |path: &Path| {
        let output =
            Command::new(SERVER).arg("check").env_clear().env("REGISTRY_POLICY", path).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.json");
    let (code, said) = check(&missing);
    assert!(code == Some(64) && said.contains("REGISTRY_POLICY") && said.contains("no such file"), "{said}");
    std::fs::write(&missing, r#"{"services": {"shop": ["not a domain"]}}"#).unwrap();
    let (code, said) = check(&missing);
    assert!(code == Some(64) && said.contains("not a domain"), "{said}");
}

#[test]
fn check_says_what_is_open_to_neighbours_until_the_checklist_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let (token, policy) = (folder.path().join("token"), folder.path().join("policy.json"));
    std::fs::write(&token, "a token\n").unwrap();
    std::fs::write(folder.path().join("shop"), "a secret\n").unwrap();
    let secret = format!("file:{}", folder.path().join("shop").display());
    let json = serde_json::json!({"services": {"shop": ["shop.de"]}, "secrets": {"shop": [secret]}});
    std::fs::write(&policy, json.to_string()).unwrap();
    let (token, policy) = (token.to_str().unwrap(), policy.to_str().unwrap());
    let checklist = [
        ("REGISTRY_TOKEN_FILE", token),
        ("REGISTRY_POLICY", policy),
        ("HOSTS", "first"),
        ("BACKEND_ALLOW", "10.2.2.0/24"),
    ];
    let said = |env: &[(&str, &str)], arguments: &[&str]| {
        let output =
            Command::new(SERVER).args(arguments).env_clear().envs(env.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let by_default = said(&[], &["check"]);
    assert!(by_default.contains("not trusted could do 5 things here"), "{by_default}");
    assert!(by_default.contains("registry-server check --untrusted"), "{by_default}");
    assert_eq!(said(&[], &["check", "--untrusted"]).matches("close it with: ").count(), 5);
    let closed = said(&checklist, &["check"]);
    assert!(!closed.contains("not trusted") && closed.contains("the configuration is good"), "{closed}");
    assert!(said(&checklist, &["check", "--untrusted"]).starts_with("nothing"));
    // Each line closes something that no other does.
    for left_out in ["REGISTRY_TOKEN_FILE", "REGISTRY_POLICY", "HOSTS", "BACKEND_ALLOW"] {
        let rest: Vec<_> = checklist.into_iter().filter(|(name, _)| *name != left_out).collect();
        assert!(said(&rest, &["check"]).contains("not trusted could do"), "{left_out}");
    }
}
