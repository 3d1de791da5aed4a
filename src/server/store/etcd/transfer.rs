//! What a cluster holds as a document, as `registry-server export` writes it of a state file, and a cluster made from one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use registry_nodes::kv::Kv;
use registry_nodes::{Config, ConfigError, Error};
use tokio::sync::mpsc;

use crate::server::registry::persist::{RouteRecord, SavedSession, SavedState, StoreChange};
use crate::server::registry::{Delta, Route, SessionNo, Tx};
use crate::server::store::{Decision, ImportError, Store, export};
use registry_client::protocol::RouteId;

use super::image::Image;
use super::layout::Layout;
use super::{Feed, Settings, SharedStore, reader, start};

/// The TTL of an import's leadership.
const TTL: Duration = Duration::from_secs(10);
/// How many changes are on their way at once.
const CHANGES: usize = 1000;

/// Why a cluster was not exported, or not made from an export.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// What etcd is reached with cannot be right.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// etcd does not answer, or refuses.
    #[error(transparent)]
    Etcd(#[from] Error),
    /// It is no export, or a newer version wrote it.
    #[error(transparent)]
    Document(ImportError),
    /// There is nothing to export.
    #[error("no server has ever used this base path")]
    Nothing,
    /// This version cannot read something, which would be missing in the export.
    #[error("{key} cannot be read: {why}; use the version that wrote it")]
    Unreadable {
        /// The key in etcd.
        key: String,
        /// What this version does not know.
        why: String,
    },
    /// Sessions are not added to others.
    #[error("the cluster holds {0} sessions already, and an import does not add to them")]
    NotEmpty(usize),
    /// A server leads, whose registry would not know what is imported.
    #[error("replica {0} leads the cluster; stop the servers first")]
    Led(String),
    /// etcd took a part of the import. Nothing serves it yet.
    #[error("etcd did not take all of the import; delete what is below the base path, and try again")]
    Incomplete,
}

/// Everything that a cluster holds, as a JSON document. Its servers may run. Cancel-safe.
///
/// # Errors
/// See [`TransferError`].
pub async fn export_cluster(config: Config) -> Result<String, TransferError> {
    let layout = Layout::new(&config.base_path.to_string());
    let kv = Kv::new(config)?;
    let (revision, entries) = reader::load(&kv, &layout).await.map_err(|fault| fault.error())?;
    if entries.is_empty() {
        return Err(TransferError::Nothing);
    }
    let image = Image::load(layout, revision, entries);
    if let Some((key, why)) = image.unreadable().iter().next() {
        return Err(TransferError::Unreadable { key: key.clone(), why: why.clone() });
    }
    // In which boot which server ran means nothing elsewhere.
    Ok(export::write(SavedState { boot_id: String::new(), ..image.saved("") }))
}

/// Makes what a cluster holds from an export. It must hold nothing, and no server may lead it. It gets an id of its own,
/// so that two clusters that come from one export are two. Returns how many sessions it has.
///
/// # Errors
/// See [`TransferError`].
pub async fn import_cluster(config: Config, json: &str) -> Result<usize, TransferError> {
    let state = export::read(json).map_err(TransferError::Document)?;
    let count = state.sessions.len();
    let settings = Settings {
        etcd: config,
        replica: format!("import-{:08x}", fastrand::u32(..)),
        ttl: TTL,
        boot_id: String::new(),
        alive: TTL,
        presence: BTreeMap::new(),
        copy: None,
    };
    let (mut store, _, mut feed) = start(settings)?;
    lead(&mut store, &mut feed).await?;
    let result = write(&mut store, &mut feed, changes(state)).await;
    let end = store.take_end();
    drop(store);
    if let Some(end) = end {
        // It ends with an error: nothing is ever sent.
        let _ = end.await;
    }
    result.map(|()| count)
}

/// Waits until the import leads an empty cluster.
async fn lead(store: &mut SharedStore, feed: &mut mpsc::Receiver<Feed>) -> Result<(), TransferError> {
    loop {
        match next(store, feed).await {
            Next::Told(Feed::Loaded(_, state)) if !state.sessions.is_empty() => {
                return Err(TransferError::NotEmpty(state.sessions.len()));
            }
            Next::Told(Feed::Follow(Some(leader))) => return Err(TransferError::Led(leader.replica)),
            Next::Told(Feed::Unreachable(error)) => return Err(error.into()),
            Next::Told(Feed::Lead(_)) => return Ok(()),
            Next::Told(_) | Next::Decided(_) => {}
            Next::Ended => return Err(Error::Ended.into()),
        }
    }
}

async fn write(
    store: &mut SharedStore,
    feed: &mut mpsc::Receiver<Feed>,
    changes: Vec<StoreChange>,
) -> Result<(), TransferError> {
    let (mut changes, mut open) = ((1..).map(Tx).zip(changes), 0);
    loop {
        while open < CHANGES
            && let Some((tx, change)) = changes.next()
        {
            if store.commit(tx, change).is_ready() {
                return Err(TransferError::Incomplete);
            }
            open += 1;
        }
        if open == 0 {
            return Ok(());
        }
        match next(store, feed).await {
            Next::Decided(Decision::Committed) => open -= 1,
            Next::Decided(Decision::Rejected) | Next::Told(Feed::Follow(_)) | Next::Ended => {
                return Err(TransferError::Incomplete);
            }
            Next::Told(_) => {}
        }
    }
}

enum Next {
    Told(Feed),
    Decided(Decision),
    Ended,
}

async fn next(store: &mut SharedStore, feed: &mut mpsc::Receiver<Feed>) -> Next {
    std::future::poll_fn(|cx| {
        if let Poll::Ready((_, decision)) = store.poll_decision(cx) {
            return Poll::Ready(Next::Decided(decision));
        }
        feed.poll_recv(cx).map(|told| told.map_or(Next::Ended, Next::Told))
    })
    .await
}

/// The changes that make a state, in the order of the applies.
fn changes(state: SavedState) -> Vec<StoreChange> {
    let mut changes: Vec<(u64, StoreChange)> = state.sessions.into_iter().flat_map(session_changes).collect();
    changes.sort_by_key(|(applied, _)| *applied);
    changes.into_iter().map(|(_, change)| change).collect()
}

/// The changes that make a session, each with the number of the apply that it comes with.
fn session_changes(saved: SavedSession) -> Vec<(u64, StoreChange)> {
    let SavedSession { session, maintenance, marks, routes } = saved;
    let no = SessionNo(session.no);
    let mut applies: BTreeMap<u64, Vec<(RouteId, RouteRecord)>> = BTreeMap::new();
    for (id, route) in routes {
        applies.entry(route.applied).or_default().push((id, route));
    }
    // One without routes has applied as well.
    applies.entry(session.defaults_applied).or_default();
    let last = applies.keys().copied().max().unwrap_or_default();
    let (mut maintenance, mut changes) = (Some(maintenance).filter(|record| !record.is_empty()), Vec::new());
    for (applied, routes) in applies {
        let sets_defaults = applied == session.defaults_applied && !session.defaults.is_empty();
        let routes = routes.into_iter().map(|(id, route)| (id, Some(Arc::new(Route::from(route))))).collect();
        let delta = Arc::new(Delta { routes, defaults: sets_defaults.then(|| session.defaults.clone()) });
        let (session, maintenance) = (Box::new(session.clone()), maintenance.take().map(Box::new));
        changes.push((applied, StoreChange::Applied { session, applied, delta, maintenance }));
    }
    if !marks.is_empty() {
        changes.push((last, StoreChange::Marked(vec![(no, marks)])));
    }
    changes
}
