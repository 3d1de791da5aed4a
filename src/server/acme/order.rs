//! One order, from the account to the certificate.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use instant_acme::{
    AuthorizationStatus, ChallengeHandle, ChallengeType, Error, Identifier, NewAccount, NewOrder,
    OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use tokio::time::timeout;

use crate::server::proxy::{Certificates, PendingChallenge};
use crate::tls::provider;

use super::Settings;
use super::http_client::{Authorities, Client, LastAnswers};
use super::plan::{Challenge, Failure, Order, Scope};
use super::store::{Account, Folder, Issued};

/// How long an order may take as a whole.
const LIMIT: Duration = Duration::from_secs(5 * 60);
/// How long the authority may take to look at the host, and then to issue the certificate.
const POLLING: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(45));

/// The authority, with our account there.
pub(super) struct Authority {
    email: String,
    directory: String,
    authorities: Authorities,
    folder: Folder,
    account: Option<instant_acme::Account>,
    last: LastAnswers,
}

/// Why an order failed, before it is known whom that concerns.
enum Broken {
    /// A call of the library failed.
    Call(Error),
    /// The authority was not convinced, or refuses the host.
    Host(String),
    /// Something on this machine.
    Here(String),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Broken::Call(error)
    }
}

impl Authority {
    pub(super) fn new(settings: &Settings, authorities: Authorities, folder: Folder) -> Authority {
        let Settings { email, directory, .. } = settings.clone();
        Authority { email, directory, authorities, folder, account: None, last: LastAnswers::default() }
    }

    /// Orders a certificate. `certificates` shows the authority what it asks for.
    pub(super) async fn carry_out(
        &mut self,
        order: &Order,
        certificates: &Certificates,
    ) -> Result<Issued, Failure> {
        self.last.take();
        let ordered = timeout(LIMIT, self.order(order, certificates)).await;
        certificates.end_challenge();
        let late = || Err(Broken::Here(format!("the order was not done after {LIMIT:?}")));
        ordered.unwrap_or_else(|_| late()).map_err(|broken| self.failure(broken, &order.host))
    }

    async fn order(&mut self, order: &Order, certificates: &Certificates) -> Result<Issued, Broken> {
        let account = self.account().await?;
        let names = [Identifier::Dns(order.host.clone())];
        let mut running = account.new_order(&NewOrder::new(&names)).await?;
        let mut used = order.challenge;
        let mut authorizations = running.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let offers = |wanted: Challenge| {
                authorization.challenges.iter().any(|offered| offered.r#type == kind(wanted))
            };
            used = match (offers(order.challenge), offers(order.challenge.other())) {
                (true, _) => order.challenge,
                (false, true) => order.challenge.other(),
                (false, false) => {
                    let refused = "the authority offers neither http-01 nor tls-alpn-01 for it";
                    return Err(Broken::Host(refused.to_owned()));
                }
            };
            let Some(mut challenge) = authorization.challenge(kind(used)) else { continue };
            certificates.begin_challenge(pending(used, &challenge, &order.host).map_err(Broken::Here)?);
            challenge.set_ready().await?;
        }
        let status = running.poll_ready(&POLLING).await;
        certificates.end_challenge();
        match status {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => return Err(Broken::Host(why_invalid(&mut running, used).await)),
            // Its account of the order is less exact than that of the challenge.
            Err(Error::Api(problem)) if !is_of_authority(&problem) => {
                let told = why_invalid(&mut running, used).await;
                return Err(Broken::Host(format!("{told} ({problem})")));
            }
            Err(Error::Timeout(_)) => {
                return Err(Broken::Host("the authority had not looked at the host in time".to_owned()));
            }
            Err(error) => return Err(error.into()),
        }
        let key = running.finalize().await?;
        let chain = running.poll_certificate(&POLLING).await?;
        Issued::new(&order.host, key, chain).map_err(Broken::Here)
    }

    /// Our account: the one from before, or a new one.
    async fn account(&mut self) -> Result<instant_acme::Account, Broken> {
        if let Some(account) = &self.account {
            return Ok(account.clone());
        }
        let client = Client { authorities: self.authorities.clone(), last: self.last.clone() };
        let builder = instant_acme::Account::builder_with_http(Box::new(client));
        let account = match self.folder.account(&self.directory, &self.email) {
            Some(kept) => builder.from_credentials(kept.credentials).await?,
            None => {
                let contact = format!("mailto:{}", self.email);
                let new = NewAccount {
                    contact: &[&contact],
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                let (account, credentials) = builder.create(&new, self.directory.clone(), None).await?;
                let (directory, email) = (self.directory.clone(), self.email.clone());
                let kept = Account { directory, email, credentials };
                self.folder.keep_account(&kept).map_err(Broken::Here)?;
                tracing::info!("made an account at {} for {}", self.directory, self.email);
                account
            }
        };
        self.account = Some(account.clone());
        Ok(account)
    }

    fn failure(&mut self, broken: Broken, host: &str) -> Failure {
        let last = self.last.take();
        let retry_after = last.and_then(|last| last.retry_after);
        let (scope, reason) = match broken {
            Broken::Host(reason) => (Scope::Host, reason),
            Broken::Here(reason) => (Scope::Authority, reason),
            Broken::Call(Error::Api(problem)) => {
                if kind_of(&problem) == "accountDoesNotExist" {
                    self.forget_account();
                }
                let concerns_all = is_of_authority(&problem) && !names(&problem, host);
                (if concerns_all { Scope::Authority } else { Scope::Host }, problem.to_string())
            }
            Broken::Call(Error::Json(_)) => {
                let status = last.map_or(StatusCode::OK, |last| last.status);
                let reason =
                    format!("{} answered with {status} and something that is no ACME", self.directory);
                (Scope::Authority, reason)
            }
            Broken::Call(error) => (Scope::Authority, error.to_string()),
        };
        // What an answer without failure said of polling is no request to stay away.
        let is_refusal = last.is_some_and(|last| !last.status.is_success());
        Failure { scope, reason, retry_after: retry_after.filter(|_| is_refusal) }
    }

    /// The authority has lost our account; the next order makes another.
    fn forget_account(&mut self) {
        self.account = None;
        if let Err(error) = self.folder.forget_account() {
            tracing::error!("{error}");
        }
    }
}

fn kind(challenge: Challenge) -> ChallengeType {
    match challenge {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

fn pending(kind: Challenge, challenge: &ChallengeHandle<'_>, host: &str) -> Result<PendingChallenge, String> {
    let authorization = challenge.key_authorization();
    Ok(match kind {
        Challenge::Http01 => PendingChallenge::Http01 {
            token: challenge.token.clone(),
            answer: Bytes::copy_from_slice(authorization.as_str().as_bytes()),
        },
        Challenge::TlsAlpn01 => {
            let certificate = challenge_certificate(host, authorization.digest().as_ref())?;
            PendingChallenge::TlsAlpn01 { host: host.to_owned(), certificate: Arc::new(certificate) }
        }
    })
}

/// The certificate that RFC 8737 asks for: for the host, signed by itself, with the digest of the key authorization.
fn challenge_certificate(host: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let failed = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new([host.to_owned()]).map_err(failed)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(failed)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
    // Not `from_der`: it refuses a certificate with a critical extension that it does not know, as this one must have.
    let key = provider().key_provider.load_private_key(key).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// What the authority says of the challenge, and what helps.
async fn why_invalid(order: &mut instant_acme::Order, used: Challenge) -> String {
    let mut told = None;
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Ok(state) = authorization.refresh().await {
            told = state.challenges.iter().find_map(|challenge| challenge.error.clone()).or(told);
        }
    }
    let told =
        told.map_or_else(|| "the authority does not say why".to_owned(), |problem| problem.to_string());
    let helps = match used {
        Challenge::Http01 => "its name must lead to this server, and port 80 there to HTTP_LISTEN",
        Challenge::TlsAlpn01 => "its name must lead to this server, and port 443 there to HTTPS_LISTEN",
    };
    format!("{told}; {helps}")
}

/// The last part of the problem's type.
fn kind_of(problem: &Problem) -> &str {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.rsplit(':').next().unwrap_or_default()
}

/// Whether it is for all hosts alike.
fn is_of_authority(problem: &Problem) -> bool {
    const KINDS: [&str; 9] = [
        "accountDoesNotExist",
        "badNonce",
        "externalAccountRequired",
        "invalidContact",
        "rateLimited",
        "serverInternal",
        "unsupportedContact",
        "userActionRequired",
        "badSignatureAlgorithm",
    ];
    KINDS.contains(&kind_of(problem)) || problem.status.is_some_and(|status| status >= 500)
}

/// Whether the problem is told of this host, or of the domain that it belongs to.
fn names(problem: &Problem, host: &str) -> bool {
    let detail = problem.detail.as_deref().unwrap_or_default();
    let mut parts = std::iter::successors(Some(host), |name| name.split_once('.').map(|(_, parent)| parent));
    parts.any(|name| name.contains('.') && detail.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, detail: &str) -> Problem {
        let kind = Some(format!("urn:ietf:params:acme:error:{kind}"));
        Problem { r#type: kind, detail: Some(detail.to_owned()), status: None, subproblems: Vec::new() }
    }

    #[test]
    fn a_limit_of_one_domain_does_not_hold_up_the_others() {
        let of_domain = problem("rateLimited", "too many certificates already issued for \"example.com\"");
        assert!(is_of_authority(&of_domain) && names(&of_domain, "a.b.example.com"));
        assert!(!names(&of_domain, "a.example.org"));
        let of_account = problem("rateLimited", "too many new orders recently");
        assert!(is_of_authority(&of_account) && !names(&of_account, "a.example.com"));
        assert!(!is_of_authority(&problem("rejectedIdentifier", "no")));
    }

    #[test]
    fn the_certificate_of_a_challenge_can_be_served() {
        let certificate = challenge_certificate("a.example.com", &[7; 32]).unwrap();
        assert_eq!(certificate.cert.len(), 1);
        // The extension of RFC 8737, critical.
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate.cert[0]).unwrap();
        let extension =
            parsed.extensions().iter().find(|found| found.oid.to_string() == "1.3.6.1.5.5.7.1.31");
        assert!(extension.unwrap().critical);
    }
}
