//! How fast lines become values and values lines: what a connection costs before anything is done with it.
//!
//! `cargo bench --bench protocol`. Throughput is in lines (elements) or bytes of the wire.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use registry_client::protocol::{Command, LineCodec, MAX_LINE, ServerLine};
use tokio_util::codec::Decoder;

/// What a reference client sends in its first minute, and one line of every longer kind.
const COMMANDS: [&str; 14] = [
    r#"REGISTER|shop|shop-1|3001|{"version":"1.2","commit":"77aa01"}"#,
    "ROUTE_LIST|shop-1-1734690123456-0123456789abcdef0123456789abcdef",
    "ROUTE_ADD|shop-1-1734690123456-0123456789abcdef0123456789abcdef|shop.example.com,www.shop.example.com|/|http://10.2.2.7:8080/|10",
    "HEALTH_SET|shop-1-1734690123456-0123456789abcdef0123456789abcdef|r1|/health|30s|5s",
    "OPTIONS_SET|shop-1-1734690123456-0123456789abcdef0123456789abcdef|ALL|compression|true",
    "HEADERS_SET|shop-1-1734690123456-0123456789abcdef0123456789abcdef|ALL|X-Frame-Options|SAMEORIGIN",
    "RATELIMIT_SET|shop-1-1734690123456-0123456789abcdef0123456789abcdef|ALL|100|1m",
    "CIRCUIT_BREAKER_SET|shop-1-1734690123456-0123456789abcdef0123456789abcdef|ALL|5|30s|3",
    "CONFIG_APPLY|shop-1-1734690123456-0123456789abcdef0123456789abcdef",
    "SESSION_INFO|shop-1-1734690123456-0123456789abcdef0123456789abcdef",
    "MAINT_ENTER|shop-1-1734690123456-0123456789abcdef0123456789abcdef|r1,r2|http://10.2.2.7:3001/",
    "DRAIN_START|shop-1-1734690123456-0123456789abcdef0123456789abcdef|30s",
    "PING|shop-1-1734690123456-0123456789abcdef0123456789abcdef",
    "CLIENT_SHUTDOWN|shop-1-1734690123456-0123456789abcdef0123456789abcdef",
];

/// The answers, and what may come between them.
const SERVER_LINES: [&str; 12] = [
    "ACK|shop-1-1734690123456-0123456789abcdef0123456789abcdef",
    r#"ROUTE_LIST_OK|[{"route_id":"r1","domains":["shop.example.com"],"path":"/","backend":"http://10.2.2.7:8080/","priority":10,"status":"active"}]"#,
    "ROUTE_OK|r1",
    "HEALTH_OK",
    "OPTIONS_OK",
    "OK",
    "PONG",
    r#"SESSION_OK|{"session_id":"shop-1-1734690123456-0123456789abcdef0123456789abcdef","service_name":"shop","instance_name":"shop-1","connected_at":"2025-01-01T00:00:00Z","uptime_seconds":60,"routes_active":1,"routes_staged":0,"last_activity":"2025-01-01T00:01:00Z","last_apply":"2025-01-01T00:00:01Z","metadata":{"version":"1.2"},"revision":7,"server":"registry-server/0.1.0"}"#,
    "ERROR|route not found",
    "MAINT_OK|r1,r2",
    r#"EVENT|backend_health_changed|{"route_id":"r1","healthy":false}"#,
    "SHUTDOWN_OK",
];

const PING: &str = "PING|shop-1-1734690123456-0123456789abcdef0123456789abcdef";

fn parse_and_encode(c: &mut Criterion) {
    let commands = COMMANDS.map(|line| Command::parse(line).expect(line));
    let server_lines = SERVER_LINES.map(|line| ServerLine::parse(line).expect(line));

    let mut group = c.benchmark_group("mix");
    group.throughput(Throughput::Elements(COMMANDS.len() as u64));
    group.bench_function("parse commands", |b| {
        b.iter(|| COMMANDS.map(|line| Command::parse(black_box(line))));
    });
    group.bench_function("encode commands", |b| {
        b.iter(|| commands.each_ref().map(|command| black_box(command).encode()));
    });
    group.throughput(Throughput::Elements(SERVER_LINES.len() as u64));
    group.bench_function("parse server lines", |b| {
        b.iter(|| SERVER_LINES.map(|line| ServerLine::parse(black_box(line))));
    });
    group.bench_function("encode server lines", |b| {
        b.iter(|| server_lines.each_ref().map(|line| black_box(line).encode()));
    });
    group.finish();

    let ping = Command::parse(PING).expect(PING);
    let mut group = c.benchmark_group("ping");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse", |b| b.iter(|| Command::parse(black_box(PING))));
    group.bench_function("encode", |b| b.iter(|| black_box(&ping).encode()));
    group.finish();
}

/// The longest command: about as many routes as one line holds.
fn bulk(c: &mut Criterion) {
    let route = |n: usize| {
        format!(
            r#"{{"domains":["s{n}.example.com"],"path":"/","backend_url":"http://10.2.2.7:8080/","priority":10}}"#
        )
    };
    let routes: Vec<_> = (100..750).map(route).collect();
    let line = format!("ROUTE_ADD_BULK|S|[{}]", routes.join(","));
    assert!(line.len() <= MAX_LINE, "{}", line.len());

    let mut group = c.benchmark_group("bulk");
    group.throughput(Throughput::Bytes(line.len() as u64));
    group.bench_function("parse 650 routes", |b| b.iter(|| Command::parse(black_box(&line))));
    group.finish();
}

/// Pipelined pings as a read brings them, taken apart into lines.
fn codec(c: &mut Criterion) {
    let lines = 64;
    let stream = format!("{PING}\n").repeat(lines);
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function("split pipelined pings", |b| {
        let read = || (LineCodec::new(MAX_LINE), BytesMut::from(stream.as_bytes()));
        b.iter_batched(
            read,
            |(mut codec, mut buffer)| {
                let mut found = 0;
                while let Ok(Some(line)) = codec.decode(&mut buffer) {
                    black_box(line);
                    found += 1;
                }
                assert_eq!(found, lines);
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, parse_and_encode, bulk, codec);
criterion_main!(benches);
