//! Connections to backends: dialling, TLS, HTTP/1.1 and HTTP/2, and each worker's pool of open connections.
//!
//! | module | what it does |
//! |---|---|
//! | `checkout` | gets a connection for one request: an open one from the pool, or a new one |
//! | `pool` | one worker's open connections |
//! | `idle_limit` | how long they may be idle before their backend closes them |
//! | `connection`, `http1`, `http2` | a connection for one request; alone on it (HTTP/1.1) or with others (HTTP/2) |
//! | `dial`, `tls` | TCP connections as the policy allows; the TLS handshake and what is verified |
//! | `recovery` | requests that wait for a member that cannot be connected to |
//! | `liveness` | finds connections whose backend is gone without a word |
//! | `request_body`, `kept_body` | a request's body on its way to a backend; its beginning, kept to be sent again |
//! | `refusal` | pure: whether an error says that the backend has not looked at the request |
//! | `early_response` | reads the response of a backend that closes before it has read the whole request |
//!
//! It must not know clients, nor which member a request goes to and why.

pub(crate) mod checkout;
pub(crate) mod connection;
pub(crate) mod dial;
mod early_response;
pub(crate) mod http1;
mod http2;
mod idle_limit;
pub(crate) mod kept_body;
mod liveness;
pub(crate) mod pool;
pub(crate) mod recovery;
pub(crate) mod refusal;
pub(crate) mod request_body;
pub(crate) mod tls;
