//! What operators learn about requests. It must not know connections, nor how a request is answered.
//!
//! | module | what it does |
//! |---|---|
//! | `access_log` | writes one line for each request |
//! | `request_metrics` | counts requests for `/metrics` |
//! | `shared_address` | warns when a rate limit hits an address that many clients share |

pub(crate) mod access_log;
pub(crate) mod request_metrics;
pub(crate) mod shared_address;
