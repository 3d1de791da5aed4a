//! The real proxy with TLS and HTTP/2 on either side, with certificates made here.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "proxy/support.rs"]
#[allow(dead_code, reason = "shared with tests/proxy.rs, which uses the rest")]
mod support;

#[path = "proxy_tls/authority.rs"]
mod authority;
#[path = "proxy_tls/backend_test.rs"]
mod backend_test;
#[path = "proxy_tls/backends.rs"]
mod backends;
#[path = "proxy_tls/clients.rs"]
mod clients;
#[path = "support/line.rs"]
mod line;
#[path = "support/programs.rs"]
mod programs;
#[path = "proxy_tls/unread.rs"]
mod unread;
#[path = "proxy_tls/upstream.rs"]
mod upstream;
