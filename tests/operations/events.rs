//! PROTOCOL section 6: what subscribers hear of a whole server.

use std::net::TcpListener;

use rcgen::{CertificateParams, KeyPair};
use registry_client::protocol::EventKind;
use registry_client::{Client, ClientConfig, Endpoint, Event, Intent};

use crate::support::{Backend, Session, get, server, soon, until};

/// A certificate for `name` in the pair `web`.
fn write_certificate(folder: &std::path::Path, name: &str) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(folder.join("web.key"), key.serialize_pem()).unwrap();
    std::fs::write(folder.join("web.crt"), certificate.pem()).unwrap();
}

#[tokio::test]
async fn requests_that_fail_again_and_again_are_an_event_and_so_is_the_first_that_does_not() {
    let server = server(&[("HOLD", "0s")]).await;
    let backend = Backend::new("web").await;
    let (address, url) = (backend.addr, backend.url());
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    assert_eq!(get(&server, "a.example.com").await.status, 200);
    assert_eq!(session.ask("SUBSCRIBE||backend_health_changed").await, "SUBSCRIBE_OK");
    backend.stop().await;
    for _ in 0..5 {
        assert_eq!(get(&server, "a.example.com").await.status, 502);
    }
    let event = session.line().await;
    let is = |event: &str, healthy: bool, reason: &str| {
        event.starts_with("EVENT|backend_health_changed|")
            && event.contains(&format!(r#""backend":"{url}/""#))
            && event.contains(&format!(r#""healthy":{healthy}"#))
            && event.contains(&format!(r#""reason":"{reason}""#))
    };
    assert!(is(&event, false, "ejected"), "{event}");
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let _back = Backend::on(tokio::net::TcpListener::from_std(listener).unwrap(), "back", 200);
    until(async || get(&server, "a.example.com").await.status == 200).await;
    let event = session.line().await;
    assert!(is(&event, true, "answered"), "{event}");
}

#[tokio::test]
async fn all_of_the_three_kinds_come_to_whoever_wants_all() {
    let folder = tempfile::tempdir().unwrap();
    write_certificate(folder.path(), "old.example.com");
    let path = folder.path().to_str().unwrap();
    let server = server(&[("HTTPS_LISTEN", "127.0.0.1:0"), ("CERT_DIR", path)]).await;
    let backend = Backend::new("web").await;
    let url = backend.url();
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    assert_eq!(session.ask("HEALTH_SET||r1|/|100ms|100ms").await, "HEALTH_OK");
    assert_eq!(session.ask("CONFIG_APPLY|").await, "OK");
    until(async || backend.requests() > 0).await;
    assert_eq!(session.ask("SUBSCRIBE||all").await, "SUBSCRIBE_OK");
    // One that wants something else hears nothing of all this.
    let mut other = Session::register(&server, "shop", "shop-2").await;
    assert_eq!(other.ask("SUBSCRIBE||global_config_changed").await, "SUBSCRIBE_OK");
    let unknown = other.ask("SUBSCRIBE||weather_changed").await;
    assert!(unknown.starts_with("ERROR|invalid event"), "{unknown}");

    backend.stop().await;
    let event = session.line().await;
    let start = format!(r#"EVENT|backend_health_changed|{{"backend":"{url}/","claims":["a.example.com/"],"#);
    assert!(event.starts_with(&start) && event.contains(r#""reason":"check_failed""#), "{event}");

    write_certificate(folder.path(), "new.example.com");
    let renewed = r#"EVENT|cert_renewed|{"names":["new.example.com"],"names_total":1,"renewed":true}"#;
    assert_eq!(session.line().await, renewed);

    let mut third = Session::register(&server, "blog", "blog-1").await;
    let secret = r#"HEADERS_SET||ALL|Authorization-Of-Ours|hush"#;
    assert_eq!(third.ask(secret).await, "HEADERS_OK");
    third.route("blog.example.com", "http://127.0.0.1:9").await;
    let changed =
        r#"EVENT|global_config_changed|{"domains":["blog.example.com"],"domains_total":1,"service":"blog"}"#;
    assert_eq!(session.line().await, changed, "by service and domain, and nothing else");
    assert_eq!(other.line().await, changed, "the first that it hears");
    assert_eq!(third.ask("PING|").await, "PONG", "whoever applied it knows it");
    assert_eq!(session.ask("UNSUBSCRIBE||all").await, "UNSUBSCRIBE_OK");
}

#[tokio::test]
async fn a_certificate_that_is_renewed_is_told_to_our_client() {
    let folder = tempfile::tempdir().unwrap();
    write_certificate(folder.path(), "old.example.com");
    let path = folder.path().to_str().unwrap();
    let server = server(&[("HTTPS_LISTEN", "127.0.0.1:0"), ("CERT_DIR", path)]).await;
    let registry = server.registry_address();
    let config = ClientConfig::new(Endpoint::new(registry.ip().to_string(), registry.port()));
    let intent = Intent::new("web".parse().unwrap(), "web-1".parse().unwrap());
    let (client, mut events) = Client::start(config, intent);
    client.subscribe(EventKind::CertRenewed).await.unwrap();
    // SUBSCRIBE has its answer when a call that came later has.
    until(async || client.registered_routes().await.is_ok()).await;
    write_certificate(folder.path(), "new.example.com");
    let data = soon(async {
        loop {
            match events.next().await {
                Some(Event::Registry { kind: EventKind::CertRenewed, data }) => return data,
                Some(_) => {}
                None => panic!("the client has stopped"),
            }
        }
    })
    .await;
    assert_eq!(data["names"], serde_json::json!(["new.example.com"]));
    assert_eq!(data["renewed"], true);
}
