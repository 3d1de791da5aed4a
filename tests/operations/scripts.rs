//! PROTOCOL sections 1 and 2: a shell script with one connection for each command.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::{Backend, Session, get, server, soon, until};

/// What the published quick test does, with whatever `nc` is called here.
const QUICK_TEST: &str = r#"
set -e
say() { printf '%s\n' "$1" | $NC; }
ACK=$(say 'REGISTER|web|web-1|0|{"by":"hand"}')
SESS=$(printf '%s' "$ACK" | cut -d'|' -f2)
say "ROUTE_ADD|$SESS|a.example.com|/|$URL|10"
printf "OPTIONS_SET|$SESS|r1|timeout|5s\nHEADERS_SET|$SESS|ALL|X-By|hand\nCONFIG_VALIDATE|$SESS\n" | $NC
say "CONFIG_APPLY|$SESS"
say "PING|$SESS"
say "MAINT_ENTER|$SESS|r1|$URL"
say "MAINT_EXIT|$SESS|r1"
say "BACKEND_TEST|$SESS|$URL" | cut -d, -f1
"#;

const EXPECTED: &str = r#"ROUTE_OK|r1
OPTIONS_OK
HEADERS_OK
OK
OK
PONG
ACK
MAINT_OK|r1
ACK
MAINT_OK|r1
BACKEND_OK|{"reachable":true
"#;

/// Every `nc` that is installed. They differ: OpenBSD's keeps its half of the connection open at the end of its input,
/// the traditional one, ncat and busybox close it.
fn installed_ncs() -> Vec<String> {
    let paths = ["/bin/nc.openbsd", "/bin/nc.traditional", "/usr/bin/ncat", "/usr/bin/nc"];
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].iter().find(|path| Path::new(path).exists());
    let programs = paths.iter().filter(|path| Path::new(path).exists()).map(|path| (*path).to_owned());
    programs.chain(busybox.map(|path| format!("{path} nc"))).collect()
}

#[tokio::test]
async fn a_shell_script_with_one_nc_for_each_command_is_served() {
    let installed = installed_ncs();
    assert!(!installed.is_empty(), "there is no nc here: apt-get install netcat-openbsd netcat-traditional");
    // Side by side, because the ones that wait for the other side's end take a second for each command.
    let mut scripts: JoinSet<()> = installed.into_iter().map(serve_script).collect();
    while let Some(script) = scripts.join_next().await {
        script.unwrap();
    }
}

async fn serve_script(nc: String) {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let registry = server.registry_address();
    let script = Command::new("sh")
        .args(["-c", QUICK_TEST])
        .env("NC", format!("{nc} -w 1 {} {}", registry.ip(), registry.port()))
        .env("URL", backend.url())
        .stdin(Stdio::null())
        .output();
    let output = soon(script).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, EXPECTED, "{nc}: {}", String::from_utf8_lossy(&output.stderr));
    let answer = get(&server, "a.example.com").await;
    assert_eq!((answer.status, answer.field("x-by")), (200, Some("hand")), "{nc}");
}

/// Its session is lost between two commands; nobody waits for the end of the other's input.
#[tokio::test]
async fn whoever_has_said_everything_still_gets_the_verdict_that_comes_later() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);

    let mut script = Session::connect(&server).await;
    script.send(&format!("MAINT_ENTER|{}|r1|http://{address}", session.id)).await;
    script.finish().await;
    assert_eq!(script.line().await, "ACK");
    until(async || get(&server, "a.example.com").await.status == 503).await;
    let page = std::net::TcpListener::bind(address).unwrap();
    page.set_nonblocking(true).unwrap();
    let _page = Backend::on(tokio::net::TcpListener::from_std(page).unwrap(), "page", 200);
    assert_eq!(script.line().await, "MAINT_OK|r1");
    assert_eq!(script.line().await, "", "and that is all");
}

#[tokio::test]
async fn whoever_goes_with_a_session_of_its_own_is_not_waited_for() {
    let server = server(&[("SESSION_GRACE", "1s")]).await;
    let backend = Backend::new("web").await;
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    // Nobody listens there, so that the verdict takes a minute.
    assert_eq!(session.ask("MAINT_ENTER||r1|http://127.0.0.1:1").await, "ACK");
    session.finish().await;
    assert_eq!(session.line().await, "", "the end of the connection is the loss of the session");
}
