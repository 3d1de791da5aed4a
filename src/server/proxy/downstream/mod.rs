//! Serves one client's connection: socket, TLS, HTTP/1.1 or HTTP/2, time-outs, the close. It takes a service that
//! answers the requests, and must not know how.
//!
//! | module | what it does |
//! |---|---|
//! | `connection` | drives hyper until the connection is over |
//! | `socket` | notes whether the client reads |
//! | `tls` | the TLS handshake |
//! | `parse_error_page` | gives hyper's answers to requests that it cannot parse a body |
//! | `refused_target` | pure: which byte of a target is the reason, and how a URL writes it |

pub(crate) mod connection;
mod parse_error_page;
mod refused_target;
mod socket;
pub(crate) mod tls;
