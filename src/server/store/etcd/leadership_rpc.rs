//! Asks etcd what the leadership wants to know.

use std::time::Duration;

use registry_nodes::Error;
use registry_nodes::kv::{Compare, Fault, Kv, Op, Transaction};

use crate::server::registry::Term;

use super::leadership::{Call, Reply};

/// What a call needs beside its kind, the [`Call`].
pub(super) struct LeadershipRpc {
    /// The leader's key.
    pub(super) key: String,
    /// What we write there.
    pub(super) value: Vec<u8>,
    pub(super) ttl: Duration,
    /// How long an answer is waited for.
    pub(super) limit: Duration,
}

impl LeadershipRpc {
    pub(super) async fn send(self, kv: &Kv, call: Call) -> Reply {
        let reply = match call {
            Call::Grant { lease } => kv.grant(lease, self.ttl).await.map(|ttl| Reply::Granted { ttl }),
            Call::Renew { lease } => kv.renew(lease, self.limit).await.map(|()| Reply::Renewed),
            Call::Stand { lease } => self.stand(kv, lease).await,
            Call::Prove { term } => self.prove(kv, term).await,
            Call::Resign { lease, term } => self.resign(kv, lease, term).await,
        };
        reply.unwrap_or_else(Reply::Failed)
    }

    /// Puts the leader's key under the lease, if nobody leads.
    async fn stand(self, kv: &Kv, lease: i64) -> Result<Reply, Fault> {
        let LeadershipRpc { key, value, limit, .. } = self;
        let txn = Transaction {
            when: vec![Compare::Created { key: key.clone(), revision: 0 }],
            then: vec![Op::Put { key: key.clone(), value, lease }],
            otherwise: vec![Op::Get { key }],
        };
        let answer = kv.transact_within(&txn, limit).await?;
        let term = |revision: i64| Term(u64::try_from(revision).unwrap_or(0));
        if answer.succeeded {
            return Ok(Reply::Leads { lease, term: term(answer.revision) });
        }
        match answer.found.into_iter().next().flatten() {
            Some(found) => Ok(Reply::Leads { lease: found.lease, term: term(found.created) }),
            None => Err(Fault::Refused(Error::Refused("a transaction without its answer".to_owned()))),
        }
    }

    /// Reads the key along: etcd answers a transaction without operations from what the member knows itself.
    async fn prove(self, kv: &Kv, term: Term) -> Result<Reply, Fault> {
        let look = vec![Op::Get { key: self.key.clone() }];
        let txn = Transaction { when: vec![of_term(self.key, term)], then: look, otherwise: Vec::new() };
        let answer = kv.transact_within(&txn, self.limit).await?;
        Ok(Reply::Proven(answer.succeeded))
    }

    /// Deletes the leader's key, if it is the one of this term, and then the lease.
    async fn resign(self, kv: &Kv, lease: i64, term: Option<Term>) -> Result<Reply, Fault> {
        if let Some(term) = term {
            let delete = vec![Op::Delete { key: self.key.clone() }];
            let txn =
                Transaction { when: vec![of_term(self.key, term)], then: delete, otherwise: Vec::new() };
            kv.transact_within(&txn, self.limit).await?;
        }
        kv.revoke(lease).await.map(|()| Reply::Resigned)
    }
}

/// The leader's key is the one of this term.
fn of_term(key: String, term: Term) -> Compare {
    Compare::Created { key, revision: i64::try_from(term.0).unwrap_or(i64::MAX) }
}
