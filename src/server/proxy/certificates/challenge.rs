//! What this server shows to an authority that wants to know whether a host leads here: a text by HTTP (RFC 8555
//! section 8.3), or a certificate in a handshake (RFC 8737).

use std::sync::Arc;

use bytes::Bytes;
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;

/// Authorities ask for these paths over plain HTTP.
pub(crate) const ACME_CHALLENGE: &str = "/.well-known/acme-challenge/";
/// The protocol of handshakes that are such a question and nothing else.
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";

/// The text that an authority expects.
pub type KeyAuthorization = Bytes;

/// What an authority is to find.
#[derive(Debug)]
pub enum PendingChallenge {
    /// A request for the token is answered with the text.
    Http01 {
        /// The last part of the path.
        token: String,
        /// The answer.
        answer: KeyAuthorization,
    },
    /// A handshake for the host gets this certificate.
    TlsAlpn01 {
        /// The host.
        host: String,
        /// The certificate with its key.
        certificate: Arc<CertifiedKey>,
    },
}

impl PendingChallenge {
    pub(super) fn key_authorization(&self, path: &str) -> Option<KeyAuthorization> {
        match self {
            PendingChallenge::Http01 { token, answer } => {
                (path.strip_prefix(ACME_CHALLENGE) == Some(token)).then(|| answer.clone())
            }
            PendingChallenge::TlsAlpn01 { .. } => None,
        }
    }

    pub(super) fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        match self {
            PendingChallenge::TlsAlpn01 { host, certificate } if host == name => {
                Some(Arc::clone(certificate))
            }
            _ => None,
        }
    }
}

/// Whether the client offers this protocol and no other, as the authority must.
pub(super) fn is_asked_for(hello: &ClientHello<'_>) -> bool {
    let mut offered = hello.alpn().into_iter().flatten();
    offered.next() == Some(ACME_TLS) && offered.next().is_none()
}
