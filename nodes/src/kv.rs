//! Keys and values of any kind, for programs that keep more in etcd than nodes and coordinate themselves there:
//! transactions, reads at one revision, watches that say at which revision each change was made, and leases.
//!
//! Each question goes to one member and is asked once (and once more after a new authentication, which etcd demands
//! before it does anything). So after [`Fault::Away`] nobody knows whether a transaction was made: whoever asks makes
//! its transactions so that the same one can be sent again.
//!
//! ```no_run
//! use registry_nodes::kv::{Compare, Kv, Op, Transaction};
//! use registry_nodes::Config;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let kv = Kv::new(Config::new(["http://localhost:2379"]))?;
//! let absent = Compare::Created { key: "/app/leader".to_owned(), revision: 0 };
//! let put = Op::Put { key: "/app/leader".to_owned(), value: b"me".to_vec(), lease: 0 };
//! let answer = kv.transact(&Transaction { when: vec![absent], then: vec![put], otherwise: vec![] }).await;
//! # drop(answer);
//! # Ok(())
//! # }
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use etcd_client::{
    Client, Compare as ClientCompare, CompareOp, DeleteOptions, EventType, GetOptions, KeyValue, PutOptions,
    Txn, TxnOp, TxnOpResponse, WatchOptions, WatchStream,
};

use crate::config::Config;
use crate::error::{ConfigError, Error};
use crate::etcd::{Etcd, LONGEST_ANSWER, end_of, next_message};

pub use crate::error::Fault;

/// The keys and values of an etcd. Cheap to clone; clones share a connection.
#[derive(Clone)]
pub struct Kv(Etcd);

/// A key with its value, and what transactions can compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision at which it was made.
    pub created: i64,
    /// The revision at which it was put last.
    pub modified: i64,
    /// How often it was put since it was made.
    pub version: i64,
    /// The lease that it hangs on; 0: none.
    pub lease: i64,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was put.
    Put(Entry),
    /// It was deleted, or its lease ended.
    Deleted {
        /// The key.
        key: String,
    },
}

/// All that one revision changed of the keys that are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revised {
    /// The revision.
    pub revision: i64,
    /// What it changed, in the order of the keys' operations. A key occurs once.
    pub events: Vec<Event>,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key was made at that revision; 0: there is no such key.
    Created {
        /// The key.
        key: String,
        /// The revision.
        revision: i64,
    },
    /// The key was put so often since it was made; 0: there is no such key.
    Version {
        /// The key.
        key: String,
        /// How often.
        version: i64,
    },
    /// The key hangs on that lease.
    Lease {
        /// The key.
        key: String,
        /// The lease.
        lease: i64,
    },
}

/// An operation of a transaction. etcd refuses a transaction that puts a key twice, or puts and deletes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Puts a key.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
        /// The lease that it is to hang on; 0: none.
        lease: i64,
    },
    /// Deletes a key, if there is one.
    Delete {
        /// The key.
        key: String,
    },
    /// Deletes all keys that begin with this, which ends with `/`.
    DeleteBelow {
        /// What they begin with.
        prefix: String,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: String,
    },
    /// Makes all of these. etcd counts operations a level at a time, so that groups carry more of them.
    Group(Vec<Op>),
}

/// What is done in one revision, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// The conditions, all of which must hold.
    pub when: Vec<Compare>,
    /// What is done if they hold.
    pub then: Vec<Op>,
    /// What is done if one does not.
    pub otherwise: Vec<Op>,
}

/// etcd's answer to a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether the conditions held.
    pub succeeded: bool,
    /// etcd's revision after it: that of the transaction itself if it wrote something.
    pub revision: i64,
    /// What each [`Op::Get`] of the part that was done has found, in their order.
    pub found: Vec<Option<Entry>>,
}

/// Some of what is below a prefix, as it was at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The keys, in their order.
    pub entries: Vec<Entry>,
    /// The revision.
    pub revision: i64,
    /// Whether there are further keys below the prefix.
    pub more: bool,
}

/// A part of what is below a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'q> {
    /// What the keys begin with. It ends with `/`.
    pub prefix: &'q str,
    /// Only keys after this one; `None`: from the first.
    pub after: Option<&'q str>,
    /// At most so many.
    pub limit: i64,
    /// As it was at that revision; `None`: as it is now, linearizably.
    pub revision: Option<i64>,
}

/// The changes below a prefix, revision by revision.
#[derive(Debug)]
pub struct Watch {
    stream: WatchStream,
    what: String,
    endpoint: String,
    ready: VecDeque<Revised>,
}

impl Kv {
    /// An etcd that need not be there yet: the first question connects to it.
    ///
    /// # Errors
    /// What is wrong with `config`, files that cannot be read included.
    pub fn new(config: Config) -> Result<Kv, ConfigError> {
        Ok(Kv(Etcd::new(config)?))
    }

    pub(crate) fn sharing(etcd: Etcd) -> Kv {
        Kv(etcd)
    }

    /// How etcd is reached.
    pub fn config(&self) -> &Config {
        self.0.config()
    }

    /// Grants a lease with an id that the caller chose, so that asking twice grants one lease. Returns the TTL that
    /// etcd granted, which may be another one.
    ///
    /// # Errors
    /// [`Fault::LeaseExists`] where an earlier try was heard.
    pub async fn grant(&self, lease: i64, ttl: Duration) -> Result<Duration, Fault> {
        self.0.grant(lease, ttl).await
    }

    /// Renews a lease, and waits at most `limit` for the answer. That there is an answer does not prove that the lease
    /// lives: an etcd member that takes itself for the leader may give it.
    ///
    /// # Errors
    /// [`Fault::LeaseLost`] where there is no such lease.
    pub async fn renew(&self, lease: i64, limit: Duration) -> Result<(), Fault> {
        self.0.renew(lease, limit).await
    }

    /// Revokes a lease, and so deletes what hangs on it. One that is gone already is no fault.
    ///
    /// # Errors
    /// Why etcd could not be told.
    pub async fn revoke(&self, lease: i64) -> Result<(), Fault> {
        self.0.revoke(lease).await
    }

    /// Makes a transaction, and waits at most `limit` for the answer.
    ///
    /// # Errors
    /// After [`Fault::Away`] the transaction may have been made; after any other fault it was not.
    pub async fn transact_within(&self, txn: &Transaction, limit: Duration) -> Result<Answer, Fault> {
        let what = format!("write {}", txn.first_key());
        let limit = limit.min(self.0.config().timeout);
        let answer = self
            .0
            .ask(&what, limit, |client: Client| {
                let mut client = client.kv_client().max_decoding_message_size(LONGEST_ANSWER);
                let txn = txn.to_client();
                async move { client.txn(txn).await }
            })
            .await?;
        let found = answer.op_responses().into_iter().filter_map(|answer| match answer {
            TxnOpResponse::Get(found) => Some(found.kvs().first().map(entry)),
            _ => None,
        });
        let revision = answer.header().map_or(0, |header| header.revision());
        Ok(Answer { succeeded: answer.succeeded(), revision, found: found.collect() })
    }

    /// Makes a transaction, and waits as long for the answer as the configuration says.
    ///
    /// # Errors
    /// See [`Kv::transact_within`].
    pub async fn transact(&self, txn: &Transaction) -> Result<Answer, Fault> {
        self.transact_within(txn, self.0.config().timeout).await
    }

    /// Reads one page. Cancel-safe.
    ///
    /// # Errors
    /// [`Fault::Compacted`] where the revision that was asked for is gone.
    pub async fn page(&self, query: Query<'_>) -> Result<Page, Fault> {
        let what = format!("read {}", query.prefix);
        let answer = self
            .0
            .ask(&what, self.0.config().timeout, |client: Client| {
                let from = match query.after {
                    Some(after) => [after.as_bytes(), b"\0"].concat(),
                    None => query.prefix.as_bytes().to_vec(),
                };
                let mut options = GetOptions::new().with_range(end_of(query.prefix)).with_limit(query.limit);
                if let Some(revision) = query.revision {
                    options = options.with_revision(revision);
                }
                let mut client = client.kv_client().max_decoding_message_size(LONGEST_ANSWER);
                async move { client.get(from, Some(options)).await }
            })
            .await?;
        let now = || answer.header().map_or(0, |header| header.revision());
        Ok(Page {
            entries: answer.kvs().iter().map(entry).collect(),
            revision: query.revision.unwrap_or_else(now),
            more: answer.more(),
        })
    }

    /// Watches all keys that begin with `prefix`, which ends with `/`, from `revision` on.
    ///
    /// # Errors
    /// Why no watch could be opened. [`Fault::Compacted`] comes from [`Watch::next`].
    pub async fn watch(&self, prefix: &str, revision: i64) -> Result<Watch, Fault> {
        let what = format!("watch {prefix}");
        let (stream, endpoint) = self
            .0
            .ask_at(&what, self.0.config().timeout, |client: Client| {
                // Without fragments an answer holds all that a revision changed, so the limit of messages is raised.
                let options = WatchOptions::new().with_start_revision(revision).with_range(end_of(prefix));
                let mut client = client.watch_client().max_decoding_message_size(LONGEST_ANSWER);
                let prefix = prefix.to_owned();
                async move { client.watch(prefix, Some(options)).await }
            })
            .await?;
        Ok(Watch { stream, what, endpoint, ready: VecDeque::new() })
    }

    /// Lets go of a connection on which a watch has failed: the next question goes to the next member.
    pub async fn abandon(&self, fault: &Fault) {
        self.0.abandon(fault).await;
    }
}

impl Watch {
    /// The next revision that changed something, with all that it changed. Cancel-safe.
    ///
    /// # Errors
    /// What ended the watch. [`Fault::Compacted`]: the revision from which it was to begin is gone.
    pub async fn next(&mut self) -> Result<Revised, Fault> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Ok(next);
            }
            let message = next_message(&mut self.stream, &self.what, &self.endpoint).await?;
            // Messages without events say how far etcd is, which early versions do too early.
            for event in message.events() {
                let Some(kv) = event.kv() else { continue };
                let revision = kv.mod_revision();
                let event = match event.event_type() {
                    EventType::Put => Event::Put(entry(kv)),
                    EventType::Delete => Event::Deleted { key: key(kv) },
                };
                match self.ready.back_mut() {
                    Some(last) if last.revision == revision => last.events.push(event),
                    _ => self.ready.push_back(Revised { revision, events: vec![event] }),
                }
            }
        }
    }
}

impl Transaction {
    fn to_client(&self) -> Txn {
        let ops = |ops: &[Op]| ops.iter().map(Op::to_client).collect::<Vec<_>>();
        let when: Vec<_> = self.when.iter().map(Compare::to_client).collect();
        Txn::new().when(when).and_then(ops(&self.then)).or_else(ops(&self.otherwise))
    }

    /// What people are told that it is about.
    fn first_key(&self) -> &str {
        self.then.first().map_or("nothing", Op::first_key)
    }
}

impl Op {
    fn to_client(&self) -> TxnOp {
        match self {
            Op::Put { key, value, lease: 0 } => TxnOp::put(key.as_str(), value.as_slice(), None),
            Op::Put { key, value, lease } => {
                let options = PutOptions::new().with_lease(*lease);
                TxnOp::put(key.as_str(), value.as_slice(), Some(options))
            }
            Op::Delete { key } => TxnOp::delete(key.as_str(), None),
            Op::DeleteBelow { prefix } => {
                let options = DeleteOptions::new().with_range(end_of(prefix));
                TxnOp::delete(prefix.as_str(), Some(options))
            }
            Op::Get { key } => TxnOp::get(key.as_str(), None),
            Op::Group(ops) => {
                TxnOp::txn(Txn::new().and_then(ops.iter().map(Op::to_client).collect::<Vec<_>>()))
            }
        }
    }

    fn first_key(&self) -> &str {
        match self {
            Op::Put { key, .. } | Op::Delete { key } | Op::Get { key } => key,
            Op::DeleteBelow { prefix } => prefix,
            Op::Group(ops) => ops.first().map_or("nothing", Op::first_key),
        }
    }
}

impl Compare {
    fn to_client(&self) -> ClientCompare {
        let equal = CompareOp::Equal;
        match self {
            Compare::Created { key, revision } => {
                ClientCompare::create_revision(key.as_str(), equal, *revision)
            }
            Compare::Version { key, version } => ClientCompare::version(key.as_str(), equal, *version),
            Compare::Lease { key, lease } => ClientCompare::lease(key.as_str(), equal, *lease),
        }
    }
}

impl Fault {
    /// What a person is told.
    pub fn error(&self) -> Error {
        self.clone().into_error()
    }
}

impl std::fmt::Debug for Kv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kv").field(self.0.config()).finish()
    }
}

fn entry(kv: &KeyValue) -> Entry {
    Entry {
        key: key(kv),
        value: kv.value().to_vec(),
        created: kv.create_revision(),
        modified: kv.mod_revision(),
        version: kv.version(),
        lease: kv.lease(),
    }
}

fn key(kv: &KeyValue) -> String {
    String::from_utf8_lossy(kv.key()).into_owned()
}

#[cfg(test)]
#[path = "kv_tests.rs"]
mod tests;
