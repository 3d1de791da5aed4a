//! What etcd holds, in a local file and as a document.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::etcd::{Etcd, Version};
use crate::programs::{caddy, free_address, wait_until};
use crate::support::{Replica, host};

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");

#[test]
fn a_server_that_starts_while_etcd_is_away_serves_what_its_copy_holds() {
    let mut etcd = vec![Etcd::start(Version::V3_5)];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy.redb");
    let more = [("STATE_FILE", file.to_str().unwrap())];
    let mut first = Replica::start_with(&etcd, &more);
    wait_until("it leads", || first.role().as_deref() == Some("leader"));
    let backend = free_address();
    let _application = caddy(backend, "shop");
    first.client().register("shop", backend);
    wait_until("it serves", || first.serves(&host("shop"), "shop"));
    first.server.program.signal("TERM");
    assert!(first.server.program.wait().success());
    etcd[0].kill();

    let mut second = Replica::start_with(&etcd, &more);
    wait_until("it serves from its copy", || second.serves(&host("shop"), "shop"));
    assert_ne!(second.role().as_deref(), Some("leader"));
    etcd[0].start_again();
    wait_until("it leads", || second.role().as_deref() == Some("leader"));
    assert!(second.serves(&host("shop"), "shop"));
    let other = free_address();
    let _other = caddy(other, "other");
    second.client().register("other", other);
    wait_until("it serves", || second.serves(&host("other"), "other"));
    second.server.program.kill();
}

/// `registry-server` with these words, an etcd and something on its standard input.
fn command(etcd: &Etcd, base_path: &str, word: &str, input: &str) -> Result<String, String> {
    let mut child = Command::new(SERVER)
        .arg(word)
        .env_clear()
        .envs([("ETCD_ENDPOINTS", etcd.endpoint().as_str()), ("ETCD_BASE_PATH", base_path)])
        .env("CLUSTER_SECRET", "correct-horse-battery-staple")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that reads nothing may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn a_cluster_is_exported_while_it_runs_and_imported_into_another_one() {
    let etcd = vec![Etcd::start(Version::V3_5)];
    let replica = Replica::start(&etcd);
    wait_until("it leads", || replica.role().as_deref() == Some("leader"));
    replica.client().register("shop", free_address());
    let base = "/registry";
    let json = command(&etcd[0], base, "export", "").unwrap();
    assert!(json.contains("shop.example.com"), "{json}");
    let told = command(&etcd[0], "/elsewhere", "import", &json).unwrap();
    assert_eq!(told, "/elsewhere in etcd holds 1 sessions\n");
    let again = command(&etcd[0], "/elsewhere", "export", "").unwrap();
    assert!(again.contains("shop.example.com"), "{again}");
    for (base, what) in [(base, "holds 1 sessions already"), ("/elsewhere", "holds 1 sessions already")] {
        let error = command(&etcd[0], base, "import", &json).unwrap_err();
        assert!(error.contains(what) || error.contains("leads the cluster"), "{error}");
    }
    let error = command(&etcd[0], "/nowhere", "export", "").unwrap_err();
    assert!(error.contains("no server has ever used this base path"), "{error}");
}
