//! TLS to clients: which versions, which protocols, and the handshake's deadline.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::Certificates;
use super::provider;

/// How long a client may take for the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Does handshakes with clients. Cheap to clone.
#[derive(Clone)]
pub(in crate::server::proxy) struct ClientTls {
    acceptor: TlsAcceptor,
    limit: Duration,
}

impl ClientTls {
    /// `patience`: how long a client may take for anything; a handshake gets 10 s of it.
    ///
    /// # Errors
    /// Where the system has no random bits.
    pub(in crate::server::proxy) fn new(
        certificates: &Certificates,
        patience: Duration,
    ) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificates.resolver());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = Ticketer::new()?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(ClientTls { acceptor, limit: HANDSHAKE_TIMEOUT.min(patience) })
    }

    /// The connection with TLS on it, and whether the client chose HTTP/2. `None`: it came to nothing.
    pub(in crate::server::proxy) async fn accept<T>(&self, stream: T) -> Option<(TlsStream<T>, bool)>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        match timeout(self.limit, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                Some((stream, is_http2))
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
