//! Reads etcd: everything at one revision, and then each revision that changes something.
//!
//! One watch over all keys begins behind the revision that was loaded, so nothing is missed and nothing comes twice. A
//! connection that breaks is made again and goes on where it was. Where etcd cannot go on, because it has compacted its
//! history or was restored from a copy, everything is loaded again.

use std::convert::Infallible;

use registry_nodes::Error;
use registry_nodes::kv::{Compare, Entry, Fault, Kv, Op, Query, Revised, Transaction};
use tokio::sync::mpsc;

use super::backoff::pause;
use super::layout::{Key, Layout, READ};
use super::values::{ClusterValue, FORMAT, encode};

/// What was read.
#[derive(Debug)]
pub(super) enum News {
    /// Everything, as it was at that revision.
    Loaded {
        revision: i64,
        entries: Vec<Entry>,
    },
    Revised(Revised),
    /// What is read is no longer up to date, or nothing can be read yet.
    Trouble(Error),
    /// It is up to date again.
    Back,
}

/// Reads until nobody listens any more.
pub(super) struct Reader {
    kv: Kv,
    layout: Layout,
    news: mpsc::Sender<News>,
    failures: u32,
}

/// Nobody listens any more.
struct Unheard;

impl Reader {
    pub(super) fn new(kv: Kv, layout: Layout, news: mpsc::Sender<News>) -> Reader {
        Reader { kv, layout, news, failures: 0 }
    }

    /// Reads until nobody listens. `cluster_id` becomes the cluster's, if it has none.
    pub(super) async fn run(mut self, cluster_id: String) {
        while self.load_and_follow(&cluster_id).await.is_ok() {}
    }

    /// Loads everything and follows the changes, until everything has to be loaded again.
    async fn load_and_follow(&mut self, cluster_id: &str) -> Result<(), Unheard> {
        let (revision, entries) = match self.load(cluster_id).await {
            Ok(loaded) => loaded,
            Err(fault) => return self.failed(&fault).await,
        };
        self.failures = 0;
        self.tell(News::Loaded { revision, entries }).await?;
        let mut last = revision;
        loop {
            let Err(fault) = self.follow(&mut last).await?;
            self.kv.abandon(&fault).await;
            self.failed(&fault).await?;
            if !matches!(fault, Fault::Away(_) | Fault::Token) {
                return Ok(());
            }
        }
    }

    /// Tells what comes after the revision `last`, which grows with that, until it cannot go on.
    async fn follow(&mut self, last: &mut i64) -> Result<Result<Infallible, Fault>, Unheard> {
        let mut watch = match self.kv.watch(self.layout.root(), *last + 1).await {
            Ok(watch) => watch,
            Err(fault) => return Ok(Err(fault)),
        };
        // An etcd that was restored from an older copy would let the watch wait until it comes to that revision.
        match self.revision_now().await {
            Ok(revision) if revision < *last => return Ok(Err(Fault::Compacted)),
            Ok(_) => {}
            Err(fault) => return Ok(Err(fault)),
        }
        if std::mem::take(&mut self.failures) > 0 {
            self.tell(News::Back).await?;
        }
        loop {
            match watch.next().await {
                Ok(revised) => {
                    *last = revised.revision;
                    self.tell(News::Revised(revised)).await?;
                }
                Err(fault) => return Ok(Err(fault)),
            }
        }
    }

    async fn revision_now(&self) -> Result<i64, Fault> {
        let prefix = self.layout.read("cluster");
        let query = Query { prefix: &prefix, after: None, limit: 1, revision: None };
        self.kv.page(query).await.map(|page| page.revision)
    }

    async fn load(&mut self, cluster_id: &str) -> Result<(i64, Vec<Entry>), Fault> {
        self.name_cluster(cluster_id).await?;
        load(&self.kv, &self.layout).await
    }

    async fn name_cluster(&self, cluster_id: &str) -> Result<(), Fault> {
        let key = self.layout.key(&Key::Cluster);
        let server = concat!("registry-server/", env!("CARGO_PKG_VERSION")).to_owned();
        let value = encode(&ClusterValue { format: FORMAT, server, cluster_id: cluster_id.to_owned() });
        let txn = Transaction {
            when: vec![Compare::Created { key: key.clone(), revision: 0 }],
            then: vec![Op::Put { key, value, lease: 0 }],
            otherwise: Vec::new(),
        };
        self.kv.transact(&txn).await.map(drop)
    }

    async fn failed(&mut self, fault: &Fault) -> Result<(), Unheard> {
        self.tell(News::Trouble(fault.error())).await?;
        tokio::time::sleep(pause(self.failures)).await;
        self.failures = self.failures.saturating_add(1);
        Ok(())
    }

    async fn tell(&self, news: News) -> Result<(), Unheard> {
        self.news.send(news).await.map_err(|_| Unheard)
    }
}

/// Reads everything as it is at one revision, in pages of about a mebibyte.
pub(super) async fn load(kv: &Kv, layout: &Layout) -> Result<(i64, Vec<Entry>), Fault> {
    let (mut entries, mut pinned) = (Vec::new(), None);
    for (folder, limit) in READ {
        let prefix = layout.read(folder);
        let mut after: Option<String> = None;
        loop {
            let query = Query { prefix: &prefix, after: after.as_deref(), limit, revision: pinned };
            let page = kv.page(query).await?;
            pinned = Some(page.revision);
            after = page.entries.last().map(|entry| entry.key.clone());
            entries.extend(page.entries);
            if !page.more {
                break;
            }
        }
    }
    Ok((pinned.unwrap_or(0), entries))
}
