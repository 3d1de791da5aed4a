//! What can go wrong, in types, and what each of etcd's errors means for whoever asked.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::node::NameError;

/// Why something is not as it was asked for. All but [`Error::Name`], [`Error::Config`] and [`Error::NameTaken`] may
/// pass, and registrations and watches try again for ever.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that no key can have.
    #[error(transparent)]
    Name(#[from] NameError),
    /// What etcd is reached with cannot be right.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No connection, or it broke.
    #[error("etcd is not reached at {endpoint}: {reason}")]
    Unreachable {
        /// The endpoint that was tried.
        endpoint: String,
        /// What the network or TLS says.
        reason: String,
    },
    /// No answer in time: whether etcd did what it was asked is unknown.
    #[error("etcd at {endpoint} does not answer within {limit:?}")]
    TimedOut {
        /// The endpoint that was asked.
        endpoint: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The member that was asked knows no leader, so there is no majority.
    #[error("etcd has no leader")]
    NoLeader,
    /// etcd wants to know who asks, and no user is configured.
    #[error("etcd requires a user name and a password")]
    CredentialsMissing,
    /// No such user, or not that password.
    #[error("etcd refuses the user name or the password")]
    CredentialsRefused,
    /// The user's roles do not allow it.
    #[error("etcd's roles do not permit {what}")]
    PermissionDenied {
        /// What was asked for.
        what: String,
    },
    /// etcd's quota is used up: it takes no key and no lease until somebody has made room.
    #[error("etcd has no space left (its quota is used up)")]
    NoSpace,
    /// Another registration lives under the name.
    #[error("the name is taken: {key} lives under the lease {lease:x}")]
    NameTaken {
        /// The key.
        key: String,
        /// The lease under which it lives; 0: none, it stays until somebody deletes it.
        lease: i64,
    },
    /// The lease ended or was revoked, and with it the node went.
    #[error("the lease is gone")]
    LeaseLost,
    /// Somebody deleted the node's key.
    #[error("the node's key was deleted")]
    KeyDeleted,
    /// The history that was asked for is compacted, so everything is read again.
    #[error("etcd has compacted the history that was asked for")]
    Compacted,
    /// Something else that etcd says.
    #[error("etcd says: {0}")]
    Refused(String),
    /// The registration or the watch has ended.
    #[error("it has ended")]
    Ended,
}

/// What etcd is reached with cannot be right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no endpoint.
    #[error("there is no endpoint")]
    NoEndpoint,
    /// An endpoint is no URL.
    #[error("the endpoint {endpoint:?} is wrong: {reason}")]
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Files for TLS are named, and an endpoint goes without TLS.
    #[error("the endpoint {0:?} goes without TLS, and files for TLS are named")]
    WithoutTls(String),
    /// A certificate without its key, or a key without its certificate.
    #[error("a certificate and its key go together")]
    HalfIdentity,
    /// A file for TLS cannot be read.
    #[error("cannot read {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A lease is granted in whole seconds.
    #[error("a TTL is at least 1s, not {0:?}")]
    Ttl(Duration),
}

/// What an answer of etcd means for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The token is no longer good, or there should be one: authenticate and ask again.
    Token,
    /// Whom we authenticate with knows no users at all.
    AuthDisabled,
    /// The connection or the member is no good: ask another one.
    Away(Error),
    /// The lease is gone.
    LeaseLost,
    /// The lease that was to be granted exists, because an earlier try of ours succeeded.
    LeaseExists,
    /// The revision is compacted, or etcd never came to it because it was restored from an older copy.
    Compacted,
    /// It will be refused again until somebody changes something.
    Refused(Error),
}

impl Fault {
    /// What a person is told.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Fault::Token => Error::CredentialsMissing,
            Fault::AuthDisabled => Error::Refused("authentication is not enabled".to_owned()),
            Fault::Away(error) | Fault::Refused(error) => error,
            Fault::LeaseLost => Error::LeaseLost,
            Fault::LeaseExists => Error::Refused("the lease exists".to_owned()),
            Fault::Compacted => Error::Compacted,
        }
    }
}

/// gRPC's numbers of the codes that matter here.
mod code {
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const INTERNAL: i32 = 13;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// What an error of the client means; `what` was asked of `endpoint`.
pub(crate) fn classify(error: &etcd_client::Error, what: &str, endpoint: &str) -> Fault {
    use etcd_client::Error as Client;
    match error {
        Client::GRpcStatus(status) => {
            let reason = || reason(status).unwrap_or_else(|| status.message().to_owned());
            classify_status(status.code() as i32, status.message(), what, endpoint, reason)
        }
        Client::TransportError(error) => {
            let reason = reason(error).unwrap_or_else(|| error.to_string());
            Fault::Away(Error::Unreachable { endpoint: endpoint.to_owned(), reason })
        }
        Client::IoError(error) => unreachable_at(endpoint, error.to_string()),
        Client::WatchError(reason) => unreachable_at(endpoint, reason.clone()),
        Client::LeaseKeepAliveError(reason) if reason.contains("lease not found") => Fault::LeaseLost,
        Client::LeaseKeepAliveError(reason) => unreachable_at(endpoint, reason.clone()),
        other => Fault::Refused(Error::Refused(other.to_string())),
    }
}

/// What a watch that etcd ended means.
pub(crate) fn classify_cancelled(reason: &str, compact_revision: i64, what: &str, endpoint: &str) -> Fault {
    if compact_revision > 0 {
        return Fault::Compacted;
    }
    classify_status(code::UNAVAILABLE, reason, what, endpoint, || "the watch was ended".to_owned())
}

/// The text comes first, because etcd answers some of these under different codes in different versions.
fn classify_status(
    number: i32,
    message: &str,
    what: &str,
    endpoint: &str,
    reason: impl FnOnce() -> String,
) -> Fault {
    let says = |text: &str| message.contains(text);
    if says("requested lease not found") {
        return Fault::LeaseLost;
    }
    if says("lease already exists") {
        return Fault::LeaseExists;
    }
    if says("authentication is not enabled") {
        return Fault::AuthDisabled;
    }
    if says("authentication failed") {
        return Fault::Refused(Error::CredentialsRefused);
    }
    if says("invalid auth token") || says("revision of auth store is old") || says("user name is empty") {
        return Fault::Token;
    }
    if says("permission denied") {
        return Fault::Refused(Error::PermissionDenied { what: what.to_owned() });
    }
    if says("required revision has been compacted") || says("required revision is a future revision") {
        return Fault::Compacted;
    }
    if says("database space exceeded") {
        return Fault::Refused(Error::NoSpace);
    }
    if says("no leader") {
        return Fault::Away(Error::NoLeader);
    }
    match number {
        code::UNAUTHENTICATED => Fault::Token,
        code::CANCELLED | code::UNKNOWN | code::DEADLINE_EXCEEDED | code::INTERNAL | code::UNAVAILABLE => {
            unreachable_at(endpoint, reason())
        }
        _ => Fault::Refused(Error::Refused(message.to_owned())),
    }
}

fn unreachable_at(endpoint: &str, reason: String) -> Fault {
    Fault::Away(Error::Unreachable { endpoint: endpoint.to_owned(), reason })
}

/// The innermost cause, which names what happened where the outer ones say "transport error".
fn reason(error: &dyn std::error::Error) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Some(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// etcd's own texts, as its versions 3.4 and 3.5 send them.
    #[test]
    fn each_text_of_etcd_means_one_thing() {
        let fault =
            |number, message: &str| classify_status(number, message, "put /s/a", "e:1", || "why".to_owned());
        insta::assert_debug_snapshot!(
            [
                (5, "etcdserver: requested lease not found"),
                (9, "etcdserver: lease already exists"),
                (9, "etcdserver: authentication is not enabled"),
                (3, "etcdserver: authentication failed, invalid user ID or password"),
                (16, "etcdserver: invalid auth token"),
                (16, "anything"),
                (2, "etcdserver: invalid auth token"),
                (3, "etcdserver: revision of auth store is old"),
                (3, "etcdserver: user name is empty"),
                (7, "etcdserver: permission denied"),
                (11, "etcdserver: mvcc: required revision has been compacted"),
                (11, "etcdserver: mvcc: required revision is a future revision"),
                (8, "etcdserver: mvcc: database space exceeded"),
                (14, "etcdserver: no leader"),
                (14, "etcdserver: leader changed"),
                (14, "etcdserver: request timed out"),
                (8, "etcdserver: too many requests"),
                (4, "context deadline exceeded"),
            ]
            .map(|(number, message)| format!("{number:>2} {message}: {:?}", fault(number, message)))
        );
    }
}
