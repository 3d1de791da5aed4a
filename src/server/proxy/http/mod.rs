//! What HTTP asks of a proxy, as pure functions on heads: no socket, no task, no clock, no routing table.
//!
//! | module | what it does |
//! |---|---|
//! | `validate` | refuses requests that must not be forwarded, and reads the host that a request is for |
//! | `framing` | lets a message say how long its body is once and in one way |
//! | `hop_by_hop` | removes headers that concern one connection only |
//! | `strip_prefix` | takes a route's path off the target of a request |
//! | `trace` | the id of the trace that a request belongs to |
//! | `trailers` | removes trailers that must not be forwarded |
//! | `forwarded` | tells backends who the client is |
//! | `forwarded_field` | reads the header Forwarded |
//! | `coding` | the content codings that the proxy can apply |
//! | `compression` | decides whether and how a response is compressed |
//! | `etag` | marks the tags of compressed responses, and undoes the marks in requests |
//! | `flaw` | why a backend's response is no HTTP |
//! | `page` | the responses that the proxy gives by itself |
//! | `websocket` | finds the ends of websocket frames |

pub(crate) mod coding;
pub(crate) mod compression;
mod etag;
pub(crate) mod flaw;
pub(crate) mod forwarded;
mod forwarded_field;
pub(crate) mod framing;
pub(crate) mod hop_by_hop;
pub(crate) mod page;
pub(crate) mod strip_prefix;
pub(crate) mod trace;
pub(crate) mod trailers;
pub(crate) mod validate;
pub(crate) mod websocket;
