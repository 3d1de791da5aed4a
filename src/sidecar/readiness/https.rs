//! TLS for a check, by the rules for backends (SEMANTICS section 3): a name is verified; an address cannot be
//! verified, and loopback need not be.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::sidecar::config::is_verified;
use crate::tls::{provider, system_roots};
use registry_client::protocol::Host;

/// Makes the handshake on a connection to `host`. It reads the certificate authorities each time, because checks are
/// rare.
///
/// # Errors
/// Says, for a person, why there is no TLS.
pub(super) async fn secure(stream: TcpStream, host: &Host) -> Result<TlsStream<TcpStream>, String> {
    let name = match host {
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|error| error.to_string())?,
        Host::Ip(ip) => ServerName::from(*ip),
    };
    let config = config(is_verified(host)).await?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected.map_err(|error| format!("no TLS: {error}"))
}

async fn config(verified: bool) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    if verified {
        let roots = tokio::task::spawn_blocking(system_roots).await.map_err(|error| error.to_string())?;
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let anybody = Anybody(provider().signature_verification_algorithms);
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(anybody));
    Ok(builder.with_no_client_auth())
}

/// Accepts every certificate, and checks only that the server has its key.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::sidecar::config::{Endpoint, ReadyCheck};
    use crate::sidecar::readiness::try_all;

    /// A server that answers over TLS with a certificate that nobody vouches for.
    async fn serve() -> u16 {
        let key = rcgen::generate_simple_self_signed(["app.example.com".to_owned()]).unwrap();
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        });
        port
    }

    #[tokio::test]
    async fn on_loopback_any_certificate_will_do() {
        let port = serve().await;
        let second = std::time::Duration::from_secs(10);
        for host in [Host::Ip([127, 0, 0, 1].into()), Host::Name("localhost".to_owned())] {
            let check = ReadyCheck::Https(Endpoint { host, port }, "/health".parse().unwrap());
            try_all(&[check], second, None).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_name_must_prove_to_be_it() {
        let stream = TcpStream::connect(("127.0.0.1", serve().await)).await.unwrap();
        let refused = secure(stream, &Host::Name("app.example.com".to_owned())).await.unwrap_err();
        assert!(refused.contains("certificate"), "{refused}");
    }
}
