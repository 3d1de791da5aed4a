//! Who may use a route: the option `auth`, with files of Apache's htpasswd and a portal as Authelia is one.

use std::process::Command;
use std::sync::{Arc, Mutex};

use super::support::{Backend, Peer, field};
use super::*;

/// An entry of htpasswd, made by Apache's program.
fn htpasswd(name: &str, password: &str) -> String {
    let made = Command::new("htpasswd").args(["-nbB", name, password]).output();
    let made = made.expect("htpasswd of Debian's apache2-utils");
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// A request of `alice` with this password.
fn with_password(path: &str, password: &str) -> String {
    use base64::Engine as _;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("alice:{password}"));
    format!("GET {path} HTTP/1.1\r\nHost: example.com\r\nAuthorization: Basic {pair}\r\n\r\n")
}

#[tokio::test]
async fn a_password_of_an_htpasswd_file_opens_a_route_and_no_other_does() {
    let backend = Backend::saying("inside").await;
    let mut world = World::before(&backend).await;
    let users = format!("{} {}", htpasswd("alice", "open:sesame ü"), htpasswd("bob", "another"));
    world.all_ok(&[&format!("OPTIONS_SET||r1|auth|basic {users}"), "CONFIG_APPLY|"]).await;
    let unknown = world.get("/").await;
    assert_eq!(unknown.status(), 401);
    assert_eq!(unknown.field("www-authenticate"), Some("Basic realm=\"Restricted\", charset=\"UTF-8\""));
    for (password, status) in [("open:sesame ü", 200), ("open", 401), ("another", 401), ("", 401)] {
        for _ in 0..2 {
            assert_eq!(world.raw(&with_password("/", password)).await.status(), status, "{password}");
        }
    }
    for header in ["Bearer x", "Basic", "Basic !!!", "Basic YWxpY2U="] {
        let request = format!("GET / HTTP/1.1\r\nHost: example.com\r\nAuthorization: {header}\r\n\r\n");
        assert_eq!(world.raw(&request).await.status(), 401, "{header}");
    }
    // The guards behind it do not hear of strangers, and those before it are asked first.
    world.all_ok(&["OPTIONS_SET||r1|body_limit|1", "CONFIG_APPLY|"]).await;
    let post = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\nxx";
    assert_eq!(world.raw(post).await.status(), 401);
    let known = with_password("/", "open:sesame ü").replace("GET", "POST");
    assert_eq!(world.raw(&known.replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nxx")).await.status(), 413);
    world.all_ok(&["OPTIONS_SET||r1|allow_from|192.0.2.1", "CONFIG_APPLY|"]).await;
    assert_eq!(world.raw(&with_password("/", "open:sesame ü")).await.status(), 403);
}

#[tokio::test]
async fn who_came_before_the_route_is_asked_too() {
    let backend = Backend::saying("inside").await;
    let mut world = World::with(&[("START_HOLD", "30s")]).await;
    let mut early = world.client().await;
    early.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    world.ok(&format!("ROUTE_ADD||example.com|/|{}|0", backend.url())).await;
    let users = htpasswd("alice", "sesame");
    world.all_ok(&[&format!("OPTIONS_SET||r1|auth|basic {users}"), "CONFIG_APPLY|"]).await;
    assert_eq!(early.response().await.status(), 401);
    early.send(with_password("/", "sesame")).await;
    assert_eq!(early.response().await.body, "inside");
}

/// A portal as Authelia is one: it knows `session=alice`, and sends everybody else to its login.
async fn portal() -> Backend {
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&heads);
    let mut portal = Backend::new(move |mut peer: Peer| {
        let kept = Arc::clone(&kept);
        async move {
            while let Some(head) = peer.head().await {
                let url = |name| field(&head, name).unwrap_or_default().to_owned();
                let asked = format!(
                    "{}://{}{}",
                    url("x-forwarded-proto"),
                    url("x-forwarded-host"),
                    url("x-forwarded-uri")
                );
                let answer = match field(&head, "cookie") {
                    Some("session=alice") => {
                        "HTTP/1.1 200 OK\r\nRemote-User: alice\r\nRemote-Groups: admins\r\nX-Secret: s\r\nContent-Length: 2\r\n\r\nok"
                            .to_owned()
                    }
                    _ => format!(
                        "HTTP/1.1 302 Found\r\nLocation: https://login.example.com/?rd={asked}\r\nSet-Cookie: a=1\r\n\
                         Set-Cookie: b=2\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nlogin\r\n0\r\n\r\n"
                    ),
                };
                kept.lock().unwrap().push(head);
                peer.send(answer).await;
            }
        }
    })
    .await;
    portal.heads = heads;
    portal
}

#[tokio::test]
async fn a_portal_decides_who_may_and_says_who_it_is() {
    let (backend, portal) = (Backend::saying("inside").await, portal().await);
    let mut world = World::before(&backend).await;
    let option = format!("OPTIONS_SET||r1|auth|forward {}/api/verify?x=y", portal.url());
    world.all_ok(&[&option, "CONFIG_APPLY|"]).await;
    let stranger = world.get("/a%2fb?c=d").await;
    assert_eq!((stranger.status(), stranger.body.as_str()), (302, "login"));
    let login = "https://login.example.com/?rd=http://example.com/a%2fb?c=d";
    assert_eq!(stranger.field("location"), Some(login));
    assert_eq!(
        stranger.head.matches("et-cookie: ").count() + stranger.head.matches("et-Cookie: ").count(),
        2
    );
    assert!(backend.heads.lock().unwrap().is_empty());

    let known = "POST /x HTTP/1.1\r\nHost: example.com\r\nCookie: session=alice\r\nRemote-User: root\r\n\
                 Remote_Groups: wheel\r\nRemote-Email: root@example.com\r\nIf-None-Match: \"1\"\r\nContent-Length: 4\r\n\r\nbody";
    assert_eq!(world.raw(known).await.body, "inside");
    let question = portal.last_head();
    assert!(question.starts_with("GET /api/verify?x=y HTTP/1.1\r\n"), "{question}");
    for (name, value) in [
        ("x-forwarded-method", Some("POST")),
        ("x-forwarded-uri", Some("/x")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("content-length", None),
        ("if-none-match", None),
    ] {
        assert_eq!(field(&question, name), value, "{name}");
    }
    assert_eq!(field(&question, "host"), Some(portal.addr.to_string().as_str()));
    let told = backend.last_head();
    for (name, value) in [
        ("remote-user", Some("alice")),
        ("remote-groups", Some("admins")),
        ("remote_groups", None),
        ("remote-email", None),
        ("x-secret", None),
        ("content-length", Some("4")),
    ] {
        assert_eq!(field(&told, name), value, "{name}: {told}");
    }
    // Only what the route names.
    world.all_ok(&[&format!("{option} X-Secret"), "CONFIG_APPLY|"]).await;
    world.raw(known).await;
    assert_eq!(field(&backend.last_head(), "x-secret"), Some("s"));
    assert_eq!(field(&backend.last_head(), "remote-user"), Some("root"), "which the route does not name");
}

#[tokio::test]
async fn nobody_passes_while_the_portal_is_away() {
    let (backend, (_closed, away)) = (Backend::saying("inside").await, support::refusing());
    let mut world = World::before(&backend).await;
    world.all_ok(&[&format!("OPTIONS_SET||r1|auth|forward {away}/"), "CONFIG_APPLY|"]).await;
    let refused = world.get("/").await;
    assert_eq!((refused.status(), refused.field("retry-after").is_some()), (503, true));
    assert!(refused.body.contains("cannot be found out"), "{}", refused.body);
    let nonsense = Backend::answering("HTTP/1.1 99 What\r\n\r\n").await;
    world.all_ok(&[&format!("OPTIONS_SET||r1|auth|forward {}/", nonsense.url()), "CONFIG_APPLY|"]).await;
    assert_eq!(world.get("/").await.status(), 503);
    assert!(backend.heads.lock().unwrap().is_empty());
}
