//! BACKEND_TEST: asks a backend once (PROTOCOL section 3).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::server::proxy::upstream::dial::Dialer;
use crate::server::proxy::upstream::tls::Trust;
use crate::server::routing::BackendPolicy;
use registry_client::protocol::BackendUrl;

use super::request::get;

/// How long a BACKEND_TEST may take in all.
const TEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The result of a BACKEND_TEST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTest {
    /// Whether the backend answered, with any status.
    pub reachable: bool,
    /// From the start to the response or the failure.
    pub response_time: Duration,
    /// The status of the response.
    pub status_code: Option<u16>,
    /// Whether the certificate is valid. For a backend with a name an invalid one is an error; for an address it is
    /// only reported here.
    pub tls_valid: bool,
    /// Why there was no response, as text.
    pub error: Option<String>,
}

/// Sends one GET to the base path of `url`, under the policy for a session from `peer`. Takes at most 5 s and follows
/// no redirect. If the policy forbids the address, the error is `not allowed: X`.
pub async fn test_backend(url: &BackendUrl, policy: &BackendPolicy, peer: IpAddr) -> BackendTest {
    test_backend_trusting(url, policy, peer, Trust::system()).await
}

/// Like [`test_backend`], with other certificate authorities than the system's.
pub async fn test_backend_trusting(
    url: &BackendUrl,
    policy: &BackendPolicy,
    peer: IpAddr,
    trust: Trust,
) -> BackendTest {
    let started = Instant::now();
    let dialer = Dialer::new(Arc::new(policy.clone()), trust);
    let ask = async {
        let stream = dialer.connect(url, peer).await.map_err(|error| error.to_string())?;
        get(&dialer, stream, url, "/", None).await
    };
    let response = match timeout(TEST_TIMEOUT, ask).await {
        Ok(response) => response,
        Err(_) => Err(format!("no answer within {TEST_TIMEOUT:?}")),
    };
    let response_time = started.elapsed();
    let status_code = response.as_ref().ok().map(|response| response.status.as_u16());
    let tls_valid = response.as_ref().is_ok_and(|response| response.tls_valid);
    BackendTest { reachable: response.is_ok(), response_time, status_code, tls_valid, error: response.err() }
}
