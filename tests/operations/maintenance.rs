//! SEMANTICS section 5: what people see during a maintenance.

use crate::support::{Backend, Session, field, get, get_path, server, soon, until};

#[tokio::test]
async fn the_proxys_own_page_is_there_with_the_ack_and_gone_with_the_verdict() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    assert_eq!(session.ask("MAINT_ENTER||ALL").await, "ACK");
    let page = get(&server, "a.example.com").await;
    assert_eq!((page.status, page.field("x-maintenance-mode")), (503, Some("true")));
    assert!(page.field("retry-after").is_some());
    assert_eq!(session.line().await, "MAINT_OK|ALL");
    session.send("ACK").await;
    assert_eq!(session.ask("PING|").await, "PONG", "an ACK gets no reply");
    assert_eq!(session.ask("MAINT_EXIT||ALL").await, "ACK");
    assert_eq!(session.line().await, "MAINT_OK|ALL");
    assert_eq!(get(&server, "a.example.com").await.body, "web 0");
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn people_get_the_page_that_was_given_and_the_backend_when_it_is_back() {
    let server = server(&[]).await;
    let (backend, page) = (Backend::new("web").await, Backend::with_status("page", 404).await);
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    assert_eq!(session.ask(&format!("MAINT_ENTER||r1|{}", page.url())).await, "ACK");
    assert_eq!(session.line().await, "MAINT_OK|r1", "anything below 500 is an answer");
    let answer = get(&server, "a.example.com").await;
    assert_eq!((answer.status, answer.body.as_str()), (404, "page 0"));
    assert_eq!(field(&page.last_head(), "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(session.ask("MAINT_EXIT||r1").await, "ACK");
    assert_eq!(session.line().await, "MAINT_OK|r1");
    assert_eq!(get(&server, "a.example.com").await.body, "web 0");
}

#[tokio::test]
async fn a_page_that_is_a_file_is_shown_for_every_path() {
    let server = server(&[]).await;
    let (backend, page) = (Backend::new("web").await, Backend::with_status("page", 503).await);
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    let url = format!("{}/down.html", page.url());
    assert_eq!(session.ask(&format!("MAINT_ENTER||ALL|{url}")).await, "ACK");
    until(async || page.requests() > 0).await;
    assert!(page.last_probe().starts_with("GET /down.html HTTP"), "the probe: {}", page.last_probe());
    until(async || get_path(&server, "a.example.com", "/some/where?x=1").await.body == "page 0").await;
    assert!(page.last_head().starts_with("GET /down.html HTTP"), "people: {}", page.last_head());
    let kept = session.ask("MAINT_STATUS|").await;
    assert!(kept.contains(&format!("\"maintenance_backend\":\"{url}\"")), "{kept}");
}

#[tokio::test]
async fn while_the_page_does_not_answer_people_see_the_proxys_own() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    assert_eq!(session.ask(&format!("MAINT_ENTER||r1|{url}")).await, "ACK");
    let own = get(&server, "a.example.com").await;
    assert_eq!((own.status, own.field("x-maintenance-mode")), (503, Some("true")));
    let page = Backend::on(socket.listen(16).unwrap(), "page", 200);
    assert_eq!(session.line().await, "MAINT_OK|r1");
    assert_eq!(get(&server, "a.example.com").await.body, "page 0");
    drop(page);
}

#[tokio::test]
async fn people_see_a_sibling_rather_than_the_page() {
    let server = server(&[]).await;
    let (one, two) = (Backend::new("one").await, Backend::new("two").await);
    let mut first = Session::live(&server, "shop", "shop-1", "a.example.com", &one).await;
    let mut second = Session::live(&server, "shop", "shop-2", "a.example.com", &two).await;
    until(async || get(&server, "a.example.com").await.body == "two 0").await;
    assert_eq!(first.ask("MAINT_ENTER||ALL").await, "ACK");
    for _ in 0..20 {
        assert_eq!(get(&server, "a.example.com").await.body, "two 0");
    }
    assert_eq!(second.ask("MAINT_ENTER||SERVICE").await, "ACK");
    assert_eq!(soon(get(&server, "a.example.com")).await.status, 503);
}

#[tokio::test]
async fn after_an_orderly_stop_the_state_file_is_complete_and_free() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.redb");
    for round in 0..5 {
        let server = server(&[("STATE_FILE", path.to_str().unwrap())]).await;
        let mut session = Session::register(&server, &format!("shop{round}"), "shop-1").await;
        session.route(&format!("a{round}.example.com"), "http://127.0.0.1:9").await;
        soon(server.stop()).await;
        let json = registry_sidecar::server::store::export(&path).unwrap();
        assert!(json.contains(&format!("a{round}.example.com")), "{json}");
    }
}
