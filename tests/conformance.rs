//! What HTTP's specifications ask of a server, case by case, over raw sockets; gRPC with tonic, websockets with tungstenite.
//!
//! | module | what it has |
//! |---|---|
//! | `stage` | the real server, a backend that counts what reaches it, and peers to compare with |
//! | `http1` | RFC 9110 and 9112: request lines, fields, bodies, connections |
//! | `frames` | HTTP/2 frames and header blocks as bytes |
//! | `http2` | RFC 9113 and RFC 7541: frames, streams, flow control, header blocks |
//! | `keep_alive` | connections that a backend closes while they are used |
//! | `grpc` | the four kinds of calls, deadlines, trailers and cancellation, through both listeners |
//! | `websocket` | messages, fragments, pings and closes, through both listeners |
//!
//! With `CONFORMANCE_BESIDE=1` the cases also go through nginx, HAProxy and Caddy, and each case that one of them answers
//! otherwise is printed: where the specification leaves a choice, their answers say what people are used to.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on says where")]

#[path = "support/frames.rs"]
mod frames;
#[path = "conformance/grpc.rs"]
mod grpc;
#[path = "conformance/http1.rs"]
mod http1;
#[path = "conformance/http2.rs"]
mod http2;
#[path = "conformance/keep_alive.rs"]
mod keep_alive;
#[path = "support/programs.rs"]
mod programs;
#[path = "conformance/stage.rs"]
mod stage;
#[path = "conformance/websocket.rs"]
mod websocket;
