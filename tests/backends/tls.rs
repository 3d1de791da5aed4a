//! Backends that speak TLS and HTTP/2, by name and by address; clients that do.

use super::authority::Authority;
use super::*;

/// Tells under which name and in which version it was asked.
const TELL: &str = "location / { return 200 \"$server_protocol $ssl_server_name $host\"; }";

/// An nginx with a certificate of `authority` for `localhost`, by which we call it.
fn secure_nginx(world: &World, authority: &Authority, listen: &str) -> (Program, SocketAddr) {
    let address = free_address();
    let name = format!("pair-{}", address.port());
    authority.pair(&["localhost"]).write(world.path(), &name);
    let server = format!("ssl_certificate {name}.crt; ssl_certificate_key {name}.key; {TELL}");
    let plain = free_address();
    // The block listens on a plain port besides, by which its start is noticed.
    let server = format!("listen {address} {listen}; {server}");
    (nginx(world.path(), plain, &server), address)
}

fn trusting(authority: &Authority) -> (TempDir, World) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let world = World::with(&[("SSL_CERT_FILE", file.to_str().unwrap()), ("PROXY_THREADS", "4")]);
    (folder, world)
}

#[test]
fn nginx_with_tls_is_verified_by_its_name_and_asked_for_the_requests_host() {
    let (ours, others) = (Authority::new(), Authority::new());
    let (_folder, mut world) = trusting(&ours);
    let (_good, good) = secure_nginx(&world, &ours, "ssl http2");
    let (_bad, bad) = secure_nginx(&world, &others, "ssl http2");
    let (good, bad) =
        (format!("https://localhost:{}", good.port()), format!("https://localhost:{}", bad.port()));
    world.route(&good, &[]);
    assert_eq!(world.curl("/", &[]).text(), format!("HTTP/1.1 {HOST} {HOST}"));
    world.ok("OPTIONS_SET||r1|http2|true");
    world.ok("CONFIG_APPLY|");
    assert_eq!(world.curl("/", &[]).text(), format!("HTTP/2.0 {HOST} {HOST}"));
    world.ok("OPTIONS_SET||r1|preserve_host|false");
    world.ok("CONFIG_APPLY|");
    assert_eq!(world.curl("/", &[]).text(), "HTTP/2.0 localhost localhost", "the host that it is asked for");
    assert_eq!(world.told(&format!("BACKEND_TEST||{good}"), "tls_valid"), true);
    let refused = world.ask(&format!("BACKEND_TEST||{bad}"));
    assert!(refused.starts_with("BACKEND_FAIL|") && refused.contains("certificate"), "{refused}");
    world.ok(&format!("ROUTE_UPDATE||r1|backend_url|{bad}"));
    world.ok("CONFIG_APPLY|");
    wait_until("it is refused", || world.curl("/", &[]).status == 502);
}

#[test]
fn an_address_with_tls_is_not_verified_and_that_is_said_once() {
    let (ours, others) = (Authority::new(), Authority::new());
    let (_folder, mut world) = trusting(&ours);
    let (_nginx, address) = secure_nginx(&world, &others, "ssl");
    let url = format!("https://{address}");
    world.route(&url, &["HEALTH_SET||r1|/health|100ms|1s"]);
    for _ in 0..20 {
        assert_eq!(world.curl("/", &[]).text(), format!("HTTP/1.1 {HOST} {HOST}"));
    }
    for _ in 0..2 {
        let reply = world.ask(&format!("BACKEND_TEST||{url}"));
        assert!(reply.contains(r#""reachable":true"#) && reply.contains(r#""tls_valid":false"#), "{reply}");
    }
    let said = world.server.program.log();
    let said: Vec<_> = said.iter().filter(|line| line.contains("is not verified")).collect();
    assert_eq!(said.len(), 1, "{said:?}");
}

#[test]
fn caddy_speaks_http2_without_tls() {
    let mut world = World::new();
    let address = free_address();
    let file = world.path().join("Caddyfile");
    let text = format!(
        "{{\nadmin off\nauto_https off\nservers {{\nprotocols h1 h2 h2c\n}}\n}}\n\
         http://:{} {{\nrespond \"{{http.request.proto}} {{http.request.host}}\"\n}}\n",
        address.port()
    );
    std::fs::write(&file, text).unwrap();
    let args = ["run", "--adapter", "caddyfile", "--config", file.to_str().unwrap()];
    let _caddy = Program::start("caddy", "/usr/bin/caddy", &args, &[]);
    wait_until("caddy listens", || TcpStream::connect(address).is_ok());
    world.route(&format!("h2c://{address}"), &["HEALTH_SET||r1|/health|100ms|1s"]);
    assert_eq!(world.curl("/", &[]).text(), format!("HTTP/2.0 {HOST}"));
    assert_eq!(world.told(&format!("BACKEND_TEST||h2c://{address}"), "status_code"), 200);
    world.ok(&format!("ROUTE_UPDATE||r1|backend_url|http://{address}"));
    world.ok("CONFIG_APPLY|");
    wait_until("it is asked in HTTP/1.1", || world.curl("/", &[]).text() == format!("HTTP/1.1 {HOST}"));
}

#[test]
fn curl_gets_http2_and_is_sent_to_it() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.pair(&[HOST]).write(folder.path(), "shop");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let https = free_address();
    let (listen, certificates) = (https.to_string(), folder.path().to_str().unwrap().to_owned());
    let mut world = World::with(&[("HTTPS_LISTEN", &listen), ("CERT_DIR", &certificates)]);
    let backend = free_address();
    let tell = "location / { return 200 \"$http_x_forwarded_proto $http_x_forwarded_for\"; }";
    let _nginx = nginx(world.path(), backend, tell);
    world.route(&format!("http://{backend}"), &[]);
    let ca = file.to_str().unwrap();
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let answer = curl(&format!("https://{HOST}/"), https, &["--cacert", ca, option]);
        assert_eq!((answer.exit, answer.version.as_str()), (0, version));
        assert_eq!(answer.text(), "https 127.0.0.1");
    }
    let moved = world.curl("/x?y", &[]);
    assert_eq!(
        (moved.status, moved.field("location")),
        (301, Some(format!("https://{HOST}:{}/x?y", https.port()).as_str()))
    );
}
