//! The TLS handshake with a client: versions, protocols, deadline.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::server::proxy::certificates::{ACME_TLS, Certificates};
use crate::tls::provider;

/// How long a client may take for the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection after its handshake.
pub(crate) struct Accepted<T> {
    pub(crate) stream: TlsStream<T>,
    /// The client chose HTTP/2.
    pub(crate) is_http2: bool,
}

/// Does handshakes with clients. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ClientTls {
    acceptor: TlsAcceptor,
    limit: Duration,
}

impl ClientTls {
    /// A handshake may take `header_timeout`, but at most 10 s.
    ///
    /// # Errors
    /// If the system gives no random bits.
    pub(crate) fn new(certificates: &Certificates, header_timeout: Duration) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificates.resolver());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ACME_TLS.to_vec()];
        config.ticketer = Ticketer::new()?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(ClientTls { acceptor, limit: HANDSHAKE_TIMEOUT.min(header_timeout) })
    }

    /// Does the handshake; `None` if it fails or takes too long, which is logged, or was an authority's question, which
    /// it has answered.
    pub(crate) async fn accept<T>(&self, stream: T) -> Option<Accepted<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        match timeout(self.limit, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS) => {
                tracing::debug!("an authority has asked for the certificate of a challenge");
                None
            }
            Ok(Ok(stream)) => {
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                Some(Accepted { stream, is_http2 })
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!("a TLS handshake took too long");
                None
            }
        }
    }
}
