//! The tables of the state file: all of it is read, and parts are changed in one transaction.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | format, server, boot, cluster, when it was last alive, the last transaction |
//! | `sessions` | number | a `SessionRecord` as JSON |
//! | `routes` | session, route | a `RouteRecord` as JSON |
//! | `maintenance` | session | a `MaintenanceRecord` as JSON, unless it is empty |
//!
//! An apply writes its session and the routes that it changes, not the session's other routes.

use std::collections::BTreeMap;
use std::time::SystemTime;

use redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    StorageError, TableDefinition, WriteTransaction,
};

use crate::server::registry::StoreChange;
use crate::server::registry::persist::{
    FORMAT, MaintenanceRecord, RouteRecord, SavedSession, SavedState, SessionMarks,
};
use registry_client::protocol::RouteId;

use super::memory_copy::MemoryCopy;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const SESSIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("sessions");
const ROUTES: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("routes");
const MAINTENANCE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("maintenance");

/// Names in `meta`.
const META_FORMAT: &str = "format";
const META_SERVER: &str = "server";
const META_BOOT: &str = "boot_id";
const META_CLUSTER: &str = "cluster_id";
const META_ALIVE: &str = "alive_at";
const META_TRANSACTION: &str = "transaction";

/// How many bytes of the file redb caches. The file is read once and then only written, so little is needed.
const CACHE: usize = 4 * 1024 * 1024;

/// The progress that redb reports when a checksum of the last transaction is wrong. 0, 0.6 and 0.9 are the others.
const WRONG_CHECKSUM: f64 = 0.3;

/// Why the file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// Another process has it open.
    #[error("another process has it open")]
    Busy,
    /// The system reports an error.
    #[error("{0}")]
    Io(std::io::Error),
    /// It is no state file, or damaged.
    #[error("{0}")]
    Damaged(String),
    /// A newer version wrote it.
    #[error("{0}")]
    Newer(String),
}

/// Why a change was not made.
#[derive(Debug)]
pub(super) enum WriteError {
    /// Nothing of the change is in the file.
    NotWritten(redb::Error),
    /// The change may be in the file or not.
    Unknown(redb::Error),
}

/// The open file.
#[derive(Debug)]
pub(super) struct Tables {
    database: Database,
}

impl Tables {
    /// Opens a database. An empty backend becomes one without tables.
    pub(super) fn open(backend: impl StorageBackend) -> Result<Self, ReadError> {
        let opened = Database::builder().set_cache_size(CACHE).create_with_backend(backend);
        Ok(Tables { database: opened.map_err(|error| read_error(error.into()))? })
    }

    /// Opens a copy of a file and verifies every checksum before anything is read. The file is damaged if its last
    /// transaction is complete and has a wrong one.
    pub(super) fn open_copy(copy: MemoryCopy) -> Result<Self, ReadError> {
        let is_complete = copy.is_complete();
        let mut builder = Database::builder();
        // redb calls this before it verifies, and a second time if it is about to go back to an older transaction.
        builder.set_cache_size(CACHE).set_repair_callback(move |repair| {
            if is_complete && (WRONG_CHECKSUM - 0.05..WRONG_CHECKSUM + 0.05).contains(&repair.progress()) {
                repair.abort();
            }
        });
        match builder.create_with_backend(copy) {
            Ok(database) => Ok(Tables { database }),
            Err(DatabaseError::RepairAborted) => {
                Err(ReadError::Damaged("the checksums of its last changes do not fit".to_owned()))
            }
            Err(error) => Err(read_error(error.into())),
        }
    }

    /// Reads everything; `None`: nothing was ever written.
    pub(super) fn read(&self) -> Result<Option<SavedState>, ReadError> {
        let reading = self.database.begin_read().map_err(|error| read_error(error.into()))?;
        let Some(meta) = read_meta(&reading)? else { return Ok(None) };
        let text = |name: &str| meta.get(name).cloned().unwrap_or_default();
        let format: u32 = text(META_FORMAT).parse().map_err(|_| damaged("meta", META_FORMAT))?;
        if format > FORMAT {
            return Err(ReadError::Newer(format!(
                "it was written by {} in format {format}; this version reads up to format {FORMAT}",
                text(META_SERVER)
            )));
        }
        let alive_at = text(META_ALIVE).parse().map(jiff::Timestamp::into).ok();
        let sessions = read_sessions(&reading, &text(META_SERVER))?;
        Ok(Some(SavedState { boot_id: text(META_BOOT), alive_at, cluster_id: text(META_CLUSTER), sessions }))
    }

    /// The number of the last transaction in the file.
    pub(super) fn transaction(&self) -> Option<u64> {
        let reading = self.database.begin_read().ok()?;
        read_meta(&reading).ok()??.get(META_TRANSACTION)?.parse().ok()
    }

    /// Writes a whole state into an empty file.
    pub(super) fn fill(&self, saved: &SavedState) -> Result<(), WriteError> {
        self.transact(|writing| {
            put_meta(writing, META_CLUSTER, &saved.cluster_id)?;
            put_meta(writing, META_BOOT, &saved.boot_id)?;
            if let Some(at) = saved.alive_at {
                put_meta(writing, META_ALIVE, &timestamp(at))?;
            }
            let mut sessions = writing.open_table(SESSIONS)?;
            let mut routes = writing.open_table(ROUTES)?;
            for SavedSession { session, maintenance, marks: _, routes: of_session } in &saved.sessions {
                sessions.insert(session.no, json(session)?.as_slice())?;
                put_maintenance(writing, session.no, maintenance)?;
                for (id, route) in of_session {
                    routes.insert((session.no, id.0), json(route)?.as_slice())?;
                }
            }
            Ok(())
        })
    }

    /// Writes changes, all of them or none. They are on the disk when it returns. `number`: of this transaction. `now` and
    /// `boot_id`: when, and in which boot, the server is alive.
    pub(super) fn write<'a>(
        &self,
        number: u64,
        now: SystemTime,
        boot_id: &str,
        changes: impl IntoIterator<Item = &'a StoreChange>,
    ) -> Result<(), WriteError> {
        self.transact(|writing| {
            put_meta(writing, META_BOOT, boot_id)?;
            put_meta(writing, META_ALIVE, &timestamp(now))?;
            put_meta(writing, META_TRANSACTION, &number.to_string())?;
            let mut sessions = writing.open_table(SESSIONS)?;
            let mut routes = writing.open_table(ROUTES)?;
            for change in changes {
                match change {
                    StoreChange::Applied { session, applied, delta, maintenance } => {
                        sessions.insert(session.no, json(session)?.as_slice())?;
                        if let Some(maintenance) = maintenance {
                            put_maintenance(writing, session.no, maintenance)?;
                        }
                        for (id, route) in &delta.routes {
                            let key = (session.no, id.0);
                            match route {
                                Some(route) => routes
                                    .insert(key, json(&RouteRecord::new(route, *applied))?.as_slice())?,
                                None => routes.remove(key)?,
                            };
                        }
                    }
                    StoreChange::Maintenance(all) => {
                        // A session that has ended meanwhile has no maintenance.
                        for (no, maintenance) in all {
                            if sessions.get(no.0)?.is_some() {
                                put_maintenance(writing, no.0, maintenance)?;
                            }
                        }
                    }
                    // Marks are for replicas. A file has one server.
                    StoreChange::Marked(_) => {}
                    StoreChange::Ended(no, _) => {
                        sessions.remove(no.0)?;
                        put_maintenance(writing, no.0, &MaintenanceRecord::default())?;
                        routes.retain_in((no.0, 0)..=(no.0, u32::MAX), |_, _| false)?;
                    }
                }
            }
            Ok(())
        })
    }

    fn transact(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), WriteError> {
        let mut writing =
            self.database.begin_write().map_err(|error| WriteError::NotWritten(error.into()))?;
        let written = writing.set_durability(Durability::Immediate).map_err(redb::Error::from);
        let written = written.and_then(|()| {
            put_meta(&writing, META_FORMAT, &FORMAT.to_string())?;
            put_meta(&writing, META_SERVER, concat!("registry-server/", env!("CARGO_PKG_VERSION")))?;
            work(&writing)
        });
        match written {
            Ok(()) => writing.commit().map_err(|error| WriteError::Unknown(error.into())),
            Err(error) => {
                // Even if this fails, nothing was committed.
                let _ = writing.abort();
                Err(WriteError::NotWritten(error))
            }
        }
    }
}

fn read_meta(reading: &ReadTransaction) -> Result<Option<BTreeMap<String, String>>, ReadError> {
    let table = match reading.open_table(META) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(read_error(error.into())),
    };
    let rows = table.iter().map_err(|error| read_error(error.into()))?;
    let row = |row: Result<(redb::AccessGuard<'_, &str>, redb::AccessGuard<'_, &[u8]>), StorageError>| {
        let (name, value) = row.map_err(|error| read_error(error.into()))?;
        Ok((name.value().to_owned(), String::from_utf8_lossy(value.value()).into_owned()))
    };
    rows.map(row).collect::<Result<_, _>>().map(Some)
}

fn read_sessions(reading: &ReadTransaction, server: &str) -> Result<Vec<SavedSession>, ReadError> {
    let sessions = match reading.open_table(SESSIONS) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(read_error(error.into())),
    };
    let mut saved = BTreeMap::new();
    for row in sessions.iter().map_err(|error| read_error(error.into()))? {
        let (no, value) = row.map_err(|error| read_error(error.into()))?;
        let session = parse(value.value(), server, || format!("session {}", no.value()))?;
        let (maintenance, marks) = (MaintenanceRecord::default(), SessionMarks::default());
        saved.insert(no.value(), SavedSession { session, maintenance, marks, routes: BTreeMap::new() });
    }
    read_maintenance(reading, server, &mut saved)?;
    let routes = match reading.open_table(ROUTES) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(saved.into_values().collect()),
        Err(error) => return Err(read_error(error.into())),
    };
    for row in routes.iter().map_err(|error| read_error(error.into()))? {
        let (key, value) = row.map_err(|error| read_error(error.into()))?;
        let (no, id) = key.value();
        let name = || format!("route r{id} of session {no}");
        let session = saved.get_mut(&no).ok_or_else(|| damaged(&name(), "its session is missing"))?;
        session.routes.insert(RouteId(id), parse(value.value(), server, name)?);
    }
    Ok(saved.into_values().collect())
}

/// Reads the maintenance of sessions. A file of format 1 has none.
fn read_maintenance(
    reading: &ReadTransaction,
    server: &str,
    saved: &mut BTreeMap<u64, SavedSession>,
) -> Result<(), ReadError> {
    let table = match reading.open_table(MAINTENANCE) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(read_error(error.into())),
    };
    for row in table.iter().map_err(|error| read_error(error.into()))? {
        let (no, value) = row.map_err(|error| read_error(error.into()))?;
        let name = || format!("maintenance of session {}", no.value());
        let session = saved.get_mut(&no.value()).ok_or_else(|| damaged(&name(), "its session is missing"))?;
        session.maintenance = parse(value.value(), server, name)?;
    }
    Ok(())
}

fn parse<T: serde::de::DeserializeOwned>(
    json: &[u8],
    server: &str,
    what: impl Fn() -> String,
) -> Result<T, ReadError> {
    serde_json::from_slice(json).map_err(|error| {
        let why = error.to_string();
        if why.starts_with("unknown field") {
            return ReadError::Newer(format!(
                "{} has what this version does not know, it was written by {server}: {why}",
                what()
            ));
        }
        damaged(&what(), &why)
    })
}

fn damaged(what: &str, why: &str) -> ReadError {
    ReadError::Damaged(format!("{what}: {why}"))
}

pub(super) fn read_error(error: redb::Error) -> ReadError {
    match error {
        redb::Error::DatabaseAlreadyOpen => ReadError::Busy,
        // redb reports a wrong magic number, and a file that is too short, in this way.
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData
                    | std::io::ErrorKind::InvalidInput
                    | std::io::ErrorKind::UnexpectedEof
            ) =>
        {
            ReadError::Damaged(error.to_string())
        }
        redb::Error::Io(error) => ReadError::Io(error),
        error => ReadError::Damaged(error.to_string()),
    }
}

fn put_meta(writing: &WriteTransaction, name: &str, value: &str) -> Result<(), redb::Error> {
    writing.open_table(META)?.insert(name, value.as_bytes())?;
    Ok(())
}

fn put_maintenance(
    writing: &WriteTransaction,
    no: u64,
    maintenance: &MaintenanceRecord,
) -> Result<(), redb::Error> {
    let mut table = writing.open_table(MAINTENANCE)?;
    if maintenance.is_empty() {
        table.remove(no)?;
    } else {
        table.insert(no, json(maintenance)?.as_slice())?;
    }
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| redb::Error::Io(error.into()))
}

fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default()
}
