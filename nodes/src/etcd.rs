//! The connection to etcd: one member at a time, the next one when it fails, authenticated anew when etcd asks for it.
//! Each question is asked once more after a new authentication, and otherwise once: whoever asks decides what a fault
//! means.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, Error as ClientError, EventType, GetOptions, LeaseGrantOptions, PutOptions,
    Txn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse, WatchStream,
};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::config::Config;
use crate::error::{ConfigError, Error, Fault, classify, classify_cancelled};

/// So many nodes are read at once.
const PAGE: i64 = 500;
/// Values of nodes are small; etcd's own limit for one of them is 1.5 MiB.
pub(crate) const LONGEST_ANSWER: usize = 256 * 1024 * 1024;

/// A connection that is made when it is needed, and made anew when it fails. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Etcd(Arc<Shared>);

struct Shared {
    config: Config,
    urls: Vec<String>,
    /// Which endpoint is used.
    current: AtomicUsize,
    client: Mutex<Option<Live>>,
}

#[derive(Clone)]
struct Live {
    client: Client,
    /// Which connection it is, so that two who fail on the same one do not take its successor away.
    number: usize,
    endpoint: usize,
}

/// A key with its value, and what fences it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    pub(crate) lease: i64,
    pub(crate) created: i64,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Put(Record),
    Gone(String),
}

/// How a key was claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// It was not there and is ours now, created at `revision`.
    Now { revision: i64 },
    /// It was there, at `revision`.
    Found { record: Record, revision: i64 },
}

/// A part of what is below a prefix, as it was at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) records: Vec<Record>,
    pub(crate) revision: i64,
    pub(crate) more: bool,
}

/// The changes from one revision on, and what ends them.
#[derive(Debug)]
pub(crate) struct Watch {
    stream: WatchStream,
    what: String,
    endpoint: String,
}

impl Etcd {
    pub(crate) fn new(config: Config) -> Result<Etcd, ConfigError> {
        let urls = config.check()?;
        Ok(Etcd(Arc::new(Shared { config, urls, current: AtomicUsize::new(0), client: Mutex::new(None) })))
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    /// A lease with an id that the caller chose, so that asking twice grants one lease; the TTL that etcd grants.
    pub(crate) async fn grant(&self, lease: i64, ttl: Duration) -> Result<Duration, Fault> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let granted = self
            .ask("grant a lease", self.0.config.timeout, |mut client: Client| async move {
                client.lease_grant(seconds, Some(LeaseGrantOptions::new().with_id(lease))).await
            })
            .await?;
        Ok(Duration::from_secs(granted.ttl().try_into().unwrap_or(0)))
    }

    /// Renews the lease. An answer takes at most `limit`, because other members should have their chance before the
    /// lease ends.
    pub(crate) async fn renew(&self, lease: i64, limit: Duration) -> Result<(), Fault> {
        let limit = limit.min(self.0.config.timeout);
        let renew = |mut client: Client| async move { client.lease_keep_alive(lease).await.map(drop) };
        self.ask("renew a lease", limit, renew).await
    }

    /// Puts the key under the lease if it is not there.
    pub(crate) async fn claim(&self, key: &str, value: &str, lease: i64) -> Result<Claimed, Fault> {
        let what = format!("put {key}");
        let answer = self
            .ask(&what, self.0.config.timeout, |mut client: Client| {
                let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
                let absent = Compare::create_revision(key, CompareOp::Equal, 0);
                let claim = Txn::new().when([absent]).and_then([put]).or_else([TxnOp::get(key, None)]);
                async move { client.txn(claim).await }
            })
            .await?;
        let revision = answer.header().map_or(0, |header| header.revision());
        if answer.succeeded() {
            return Ok(Claimed::Now { revision });
        }
        match answer.op_responses().into_iter().next() {
            Some(TxnOpResponse::Get(found)) if !found.kvs().is_empty() => {
                Ok(Claimed::Found { record: record(&found.kvs()[0]), revision })
            }
            _ => Err(Fault::Refused(Error::Refused("a transaction without its answer".to_owned()))),
        }
    }

    /// Puts another value where the key is still ours; whether it is.
    pub(crate) async fn write(
        &self,
        key: &str,
        value: &str,
        lease: i64,
        created: i64,
    ) -> Result<bool, Fault> {
        let what = format!("put {key}");
        let answer = self
            .ask(&what, self.0.config.timeout, |mut client: Client| {
                let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
                let write = Txn::new().when(ours(key, lease, created)).and_then([put]);
                async move { client.txn(write).await }
            })
            .await?;
        Ok(answer.succeeded())
    }

    /// Deletes the key where it is still ours, and then the lease, which takes along what a put of ours that is still
    /// on its way would write. The lease alone deletes only what hangs on it.
    pub(crate) async fn withdraw(&self, key: &str, lease: i64, created: Option<i64>) -> Result<(), Fault> {
        if let Some(created) = created {
            let what = format!("delete {key}");
            self.ask(&what, self.0.config.timeout, |mut client: Client| {
                let delete = Txn::new().when(ours(key, lease, created)).and_then([TxnOp::delete(key, None)]);
                async move { client.txn(delete).await }
            })
            .await?;
        }
        self.revoke(lease).await
    }

    /// Ends a lease and with it what hangs on it. One that is gone already is no fault.
    pub(crate) async fn revoke(&self, lease: i64) -> Result<(), Fault> {
        let revoke = |mut client: Client| async move { client.lease_revoke(lease).await.map(drop) };
        match self.ask("revoke a lease", self.0.config.timeout, revoke).await {
            Ok(()) | Err(Fault::LeaseLost) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// What is below `prefix` after the key `after`, at `revision` or, without one, as it is now.
    pub(crate) async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        revision: Option<i64>,
    ) -> Result<Page, Fault> {
        let what = format!("read {prefix}");
        let answer = self
            .ask(&what, self.0.config.timeout, |client: Client| {
                let from = after
                    .map_or_else(|| prefix.as_bytes().to_vec(), |after| [after.as_bytes(), b"\0"].concat());
                let mut options = GetOptions::new().with_range(end_of(prefix)).with_limit(PAGE);
                if let Some(revision) = revision {
                    options = options.with_revision(revision);
                }
                let mut client = client.kv_client().max_decoding_message_size(LONGEST_ANSWER);
                async move { client.get(from, Some(options)).await }
            })
            .await?;
        Ok(Page {
            records: answer.kvs().iter().map(record).collect(),
            revision: revision.or_else(|| answer.header().map(|header| header.revision())).unwrap_or(0),
            more: answer.more(),
        })
    }

    /// The changes of one key, or of all below a prefix, from `revision` on.
    pub(crate) async fn watch(&self, keys: Keys<'_>, revision: i64) -> Result<Watch, Fault> {
        let key = match keys {
            Keys::One(key) | Keys::Below(key) => key,
        };
        let what = format!("watch {key}");
        let opened = self
            .ask_at(&what, self.0.config.timeout, |client: Client| {
                let mut options = WatchOptions::new().with_start_revision(revision).with_fragment();
                if matches!(keys, Keys::Below(_)) {
                    options = options.with_range(end_of(key));
                }
                let mut client = client.watch_client().max_decoding_message_size(LONGEST_ANSWER);
                let key = key.to_owned();
                async move { client.watch(key, Some(options)).await }
            })
            .await;
        let (stream, endpoint) = opened?;
        Ok(Watch { stream, what, endpoint })
    }

    /// Whoever holds on to a connection found it broken: the next question goes to the next member.
    pub(crate) async fn abandon(&self, fault: &Fault) {
        let live = self.0.client.lock().await.clone();
        if let Some(live) = live {
            self.drop_connection(&live, fault).await;
        }
    }

    pub(crate) async fn ask<T, F: Future<Output = Result<T, ClientError>> + Send>(
        &self,
        what: &str,
        limit: Duration,
        question: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<T, Fault> {
        self.ask_at(what, limit, question).await.map(|(answer, _)| answer)
    }

    /// The answer, and which endpoint gave it.
    pub(crate) async fn ask_at<T, F: Future<Output = Result<T, ClientError>> + Send>(
        &self,
        what: &str,
        limit: Duration,
        question: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<(T, String), Fault> {
        let mut authenticated_anew = false;
        loop {
            let endpoint = &self.0.urls[self.0.current.load(Ordering::Relaxed) % self.0.urls.len()];
            let late = || Fault::Away(Error::TimedOut { endpoint: endpoint.clone(), limit });
            let live = timeout(limit, self.connection()).await.map_err(|_| late());
            let live = match live.and_then(|live| live) {
                Ok(live) => live,
                Err(fault) => {
                    self.rotate(&fault);
                    return Err(fault);
                }
            };
            let url = &self.0.urls[live.endpoint];
            let fault = match timeout(limit, question(live.client.clone())).await {
                Ok(Ok(answer)) => return Ok((answer, url.clone())),
                Ok(Err(error)) => classify(&error, what, url),
                Err(_) => late(),
            };
            self.drop_connection(&live, &fault).await;
            match fault {
                Fault::Token if !authenticated_anew => authenticated_anew = true,
                Fault::Token if self.0.config.credentials.is_some() => {
                    return Err(Fault::Refused(Error::CredentialsRefused));
                }
                Fault::Token => return Err(Fault::Refused(Error::CredentialsMissing)),
                fault => return Err(fault),
            }
        }
    }

    async fn connection(&self) -> Result<Live, Fault> {
        let mut current = self.0.client.lock().await;
        if let Some(live) = &*current {
            return Ok(live.clone());
        }
        let number = self.0.current.load(Ordering::Relaxed);
        let endpoint = number % self.0.urls.len();
        let client = match self.connect(endpoint, true).await {
            Err(Fault::AuthDisabled) => self.connect(endpoint, false).await?,
            connected => connected?,
        };
        let live = Live { client, number, endpoint };
        *current = Some(live.clone());
        Ok(live)
    }

    async fn connect(&self, endpoint: usize, authenticate: bool) -> Result<Client, Fault> {
        let url = &self.0.urls[endpoint];
        let options =
            self.0.config.options(url, authenticate).map_err(|error| Fault::Refused(Error::Config(error)))?;
        let connected = Client::connect([url.as_str()], Some(options)).await;
        connected.map_err(|error| classify(&error, "authenticate", url))
    }

    /// Lets go of a connection that the fault makes useless.
    async fn drop_connection(&self, live: &Live, fault: &Fault) {
        if !matches!(fault, Fault::Token | Fault::Away(_)) {
            return;
        }
        let mut current = self.0.client.lock().await;
        if current.as_ref().is_some_and(|current| current.number == live.number) {
            *current = None;
            let step = match fault {
                // The same member again, and yet another number.
                Fault::Token => self.0.urls.len(),
                _ => 1,
            };
            self.0.current.fetch_add(step, Ordering::Relaxed);
        }
    }

    /// The member cannot even be connected to.
    fn rotate(&self, fault: &Fault) {
        if matches!(fault, Fault::Away(_)) {
            self.0.current.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What is watched.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keys<'k> {
    One(&'k str),
    Below(&'k str),
}

/// The next message of a watch, or what ended the watch: etcd's word, a broken connection, its end. Cancel-safe.
pub(crate) async fn next_message(
    stream: &mut WatchStream,
    what: &str,
    endpoint: &str,
) -> Result<WatchResponse, Fault> {
    let message = match stream.message().await {
        Ok(Some(message)) => message,
        Ok(None) => return Err(classify_cancelled("", 0, what, endpoint)),
        Err(error) => return Err(classify(&error, what, endpoint)),
    };
    if message.canceled() {
        let (reason, compacted) = (message.cancel_reason(), message.compact_revision());
        return Err(classify_cancelled(reason, compacted, what, endpoint));
    }
    Ok(message)
}

impl Watch {
    /// The next changes, and the revision up to which they go. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<(Vec<Change>, i64), Fault> {
        loop {
            let message = next_message(&mut self.stream, &self.what, &self.endpoint).await?;
            if message.events().is_empty() {
                continue;
            }
            let changes = message.events().iter().filter_map(|event| {
                let kv = event.kv()?;
                Some(match event.event_type() {
                    EventType::Put => Change::Put(record(kv)),
                    EventType::Delete => Change::Gone(String::from_utf8_lossy(kv.key()).into_owned()),
                })
            });
            let revision = message.header().map_or(0, |header| header.revision());
            return Ok((changes.collect(), revision));
        }
    }
}

/// The key is ours as long as it hangs on our lease and was not deleted in between.
fn ours(key: &str, lease: i64, created: i64) -> [Compare; 2] {
    [Compare::lease(key, CompareOp::Equal, lease), Compare::create_revision(key, CompareOp::Equal, created)]
}

fn record(kv: &etcd_client::KeyValue) -> Record {
    Record {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: kv.value().to_vec(),
        lease: kv.lease(),
        created: kv.create_revision(),
    }
}

/// The first key that does not begin with `prefix`, which ends with `/`.
pub(crate) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[cfg(test)]
#[path = "etcd_tests.rs"]
mod tests;
