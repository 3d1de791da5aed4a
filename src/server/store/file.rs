//! STATE_FILE: what is applied is on the disk before it is answered (PROTOCOL section 4, SEMANTICS section 7).
//!
//! One thread owns the file. It takes all changes that wait, writes them in one transaction, waits for the disk once, and
//! sends the decisions. So the registry's task never waits for the disk, and many applies at once cost little more than
//! one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, SystemTime};

use redb::backends::FileBackend;
use tokio::sync::oneshot;
use tracing::{error, info};

use crate::server::registry::persist::SavedState;
use crate::server::registry::{StoreChange, Tx};

use super::database::{ReadError, Tables, WriteError, read_error};
use super::memory_copy::MemoryCopy;
use super::{Decision, Store};

/// How many changes one transaction has at most, because the first of them waits for the last.
const BATCH: usize = 4096;
/// How many changes may wait. Beyond that a change is rejected at once.
const OUTSTANDING: usize = 65_536;
/// How often the time at which the server was alive is written, unless the grace requires it more often.
const ALIVE: Duration = Duration::from_secs(30);
/// The pause between two attempts to reopen a file that could not be written.
const REOPEN: Duration = Duration::from_secs(1);

/// Why a state file cannot be used. The server does not start then, because it would lose what is in the file.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system does not let this process use it.
    #[error(
        "STATE_FILE={}: {error}; this process runs as user {user} and must be able to read and write the file and its directory",
        path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
        /// The user that this process runs as.
        user: u32,
    },
    /// Another process has it open.
    #[error("STATE_FILE={}: another process has it open; two servers cannot share a file", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// It is damaged, or no state file.
    #[error(
        "STATE_FILE={}: damaged, or no state file: {why}. {}. To start without what it holds, move it away: \
         sidecars register again by themselves",
        path.display(),
        kept(copy.as_deref())
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// Where a copy of it was put.
        copy: Option<PathBuf>,
    },
    /// A newer version wrote it.
    #[error(
        "STATE_FILE={}: {why}. {}; start the newer version",
        path.display(),
        kept(copy.as_deref())
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// What this version does not know.
        why: String,
        /// Where a copy of it was put.
        copy: Option<PathBuf>,
    },
    /// It exists already.
    #[error("STATE_FILE={}: it exists already and is not overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

impl StateError {
    /// The system does not let this process use the file at `path`.
    pub(crate) fn unusable(path: &Path, error: io::Error) -> Self {
        // The owner of /proc/self is the user of this process. Any other way to ask needs unsafe code.
        let user = fs::metadata("/proc/self").map_or(0, |metadata| metadata.uid());
        StateError::Unusable { path: path.to_owned(), error, user }
    }
}

fn kept(copy: Option<&Path>) -> String {
    copy.map_or("It is left as it is".to_owned(), |copy| format!("A copy is kept as {}", copy.display()))
}

/// A store in a file. When it is dropped, its thread writes the changes that wait and ends; [`Store::take_end`] tells
/// when.
#[derive(Debug)]
pub struct FileStore {
    saved: Option<SavedState>,
    changes: mpsc::Sender<(Tx, StoreChange)>,
    decisions: tokio::sync::mpsc::UnboundedReceiver<(Tx, Decision)>,
    outstanding: usize,
    /// Ends when the thread has ended.
    end: Option<oneshot::Receiver<()>>,
    _alive: Arc<()>,
}

impl FileStore {
    /// Opens the file and reads it, or makes one that only its owner can read. Blocks.
    ///
    /// `boot_id`: the boot in which this server runs. `grace`: the registry's grace; the time at which the server was alive
    /// is written four times as often, or every 30 s.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(path: &Path, boot_id: &str, grace: Duration) -> Result<Self, StateError> {
        let (tables, mut saved) = match open(path) {
            Err(StateError::Unusable { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                create(path, &empty_state())?;
                open(path)?
            }
            opened => opened?,
        };
        if saved.is_none() {
            // An empty file, which people make for a bind mount.
            let nothing = empty_state();
            fill(path, &tables, &nothing)?;
            saved = Some(nothing);
        }
        let reopen = {
            let path = path.to_owned();
            move || open_tables(&path)
        };
        let alive = (grace / 4).clamp(Duration::from_secs(1), ALIVE);
        let shown = path.display().to_string();
        Ok(Self::start(tables, saved, shown, boot_id.to_owned(), alive, Box::new(reopen)))
    }

    pub(super) fn start(
        tables: Tables,
        saved: Option<SavedState>,
        shown: String,
        boot_id: String,
        alive: Duration,
        reopen: Reopen,
    ) -> Self {
        let (changes, queue) = mpsc::channel();
        let (answers, decisions) = tokio::sync::mpsc::unbounded_channel();
        let owner = Arc::new(());
        let number = tables.transaction().unwrap_or(0);
        let tables = Some(tables);
        let still_wanted = Arc::downgrade(&owner);
        let writer = Writer { tables, number, shown, boot_id, failing: false, reopen, still_wanted };
        let (running, end) = oneshot::channel::<()>();
        let run = move || {
            writer.run(&queue, &answers, alive);
            drop(running);
        };
        if let Err(error) = thread::Builder::new().name("state-file".to_owned()).spawn(run) {
            // The receiver is gone, so every change is rejected.
            error!(%error, "cannot start the thread that writes STATE_FILE");
        }
        FileStore { saved, changes, decisions, outstanding: 0, end: Some(end), _alive: owner }
    }
}

impl Store for FileStore {
    fn take_saved(&mut self) -> Option<SavedState> {
        self.saved.take()
    }

    fn take_end(&mut self) -> Option<oneshot::Receiver<()>> {
        self.end.take()
    }

    fn commit(&mut self, tx: Tx, change: StoreChange) -> Poll<Decision> {
        if self.outstanding >= OUTSTANDING || self.changes.send((tx, change)).is_err() {
            return Poll::Ready(Decision::Rejected);
        }
        self.outstanding += 1;
        Poll::Pending
    }

    fn poll_decision(&mut self, cx: &mut Context<'_>) -> Poll<(Tx, Decision)> {
        match self.decisions.poll_recv(cx) {
            Poll::Ready(Some(decision)) => {
                self.outstanding = self.outstanding.saturating_sub(1);
                Poll::Ready(decision)
            }
            // The thread is gone. `commit` rejects further changes.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// Opens the file again after it could not be written.
pub(super) type Reopen = Box<dyn Fn() -> Result<Tables, ReadError> + Send>;

/// The state of the thread.
struct Writer {
    /// `None`: writing failed, and the file is opened again for the next change.
    tables: Option<Tables>,
    /// The number of the last transaction.
    number: u64,
    shown: String,
    boot_id: String,
    failing: bool,
    reopen: Reopen,
    still_wanted: Weak<()>,
}

impl Writer {
    fn run(
        mut self,
        queue: &mpsc::Receiver<(Tx, StoreChange)>,
        answers: &tokio::sync::mpsc::UnboundedSender<(Tx, Decision)>,
        alive: Duration,
    ) {
        // This writes the boot and the time, in case the server is killed before its first change.
        self.write_batch(&[]);
        let mut batch = Vec::new();
        loop {
            match queue.recv_timeout(alive) {
                Ok(first) => {
                    batch.push(first);
                    batch.extend(queue.try_iter().take(BATCH - 1));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.write_batch(&[]);
                    return;
                }
            }
            let decision = self.write_batch(&batch);
            for (tx, _) in batch.drain(..) {
                // The receiver is gone when the server stops.
                let _ = answers.send((tx, decision));
            }
        }
    }

    /// Writes changes. The decision that it returns is certain.
    fn write_batch(&mut self, batch: &[(Tx, StoreChange)]) -> Decision {
        if self.tables.is_none() {
            match (self.reopen)() {
                Ok(tables) => self.tables = Some(tables),
                Err(error) => return self.failed(&error),
            }
        }
        let Some(tables) = &self.tables else { return Decision::Rejected };
        self.number += 1;
        let changes = batch.iter().map(|(_, change)| change);
        match tables.write(self.number, SystemTime::now(), &self.boot_id, changes) {
            Ok(()) => self.succeeded(),
            Err(WriteError::NotWritten(error)) => {
                self.tables = None;
                self.failed(&error)
            }
            Err(WriteError::Unknown(error)) => {
                self.tables = None;
                self.failed(&error);
                self.find_out_what_was_written()
            }
        }
    }

    /// Finds out whether a transaction is in the file, for as long as that takes. Until then the clients are told that the
    /// store is unavailable, and find the truth in the session's revision.
    fn find_out_what_was_written(&mut self) -> Decision {
        while self.still_wanted.strong_count() > 0 {
            match (self.reopen)() {
                Ok(tables) => {
                    let written = tables.transaction() == Some(self.number);
                    self.tables = Some(tables);
                    return if written { self.succeeded() } else { Decision::Rejected };
                }
                Err(_) => thread::sleep(REOPEN),
            }
        }
        Decision::Rejected
    }

    fn succeeded(&mut self) -> Decision {
        if std::mem::take(&mut self.failing) {
            info!("STATE_FILE={} can be written again", self.shown);
        }
        Decision::Committed
    }

    fn failed(&mut self, error: &dyn std::fmt::Display) -> Decision {
        if !std::mem::replace(&mut self.failing, true) {
            error!(
                "STATE_FILE={} cannot be written: {error}; until it can be, applies are refused",
                self.shown
            );
        }
        Decision::Rejected
    }
}

/// Reads an existing file and leaves it as it is.
///
/// # Errors
/// See [`StateError`].
pub(super) fn load(path: &Path) -> Result<SavedState, StateError> {
    Ok(examine(path)?.1.unwrap_or_default())
}

/// Makes a file with this state. It gets its name when it is complete and on the disk.
pub(super) fn create(path: &Path, saved: &SavedState) -> Result<(), StateError> {
    if path.exists() {
        return Err(StateError::Exists { path: path.to_owned() });
    }
    replace(path, saved)
}

/// Makes a file with this state, which takes the place of one that is there. No process may have that one open.
pub(super) fn replace(path: &Path, saved: &SavedState) -> Result<(), StateError> {
    let new = sibling(path, "new");
    let unusable = |error| unusable(path, error);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error)),
        _ => {}
    }

    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new);
    let backend =
        FileBackend::new(file.map_err(unusable)?).map_err(|error| explain(path, database_error(error)))?;
    let tables = Tables::open(backend).map_err(|error| explain(path, error))?;
    fill(path, &tables, saved)?;
    drop(tables);
    fs::rename(&new, path).map_err(unusable)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(unusable)
}

fn fill(path: &Path, tables: &Tables, saved: &SavedState) -> Result<(), StateError> {
    tables.fill(saved).map_err(|error| match error {
        WriteError::NotWritten(error) | WriteError::Unknown(error) => unusable(path, io::Error::other(error)),
    })
}

/// A state without sessions, with an id of its own. Without random bits the registry chooses one.
fn empty_state() -> SavedState {
    let mut bytes = [0; 16];
    let cluster_id = match getrandom::fill(&mut bytes) {
        Ok(()) => format!("{:032x}", u128::from_ne_bytes(bytes)),
        Err(_) => String::new(),
    };
    SavedState { cluster_id, ..SavedState::default() }
}

/// Opens an existing file and reads it; `None`: nothing was ever written.
fn open(path: &Path) -> Result<(Tables, Option<SavedState>), StateError> {
    let (backend, saved) = examine(path)?;
    Ok((guarded(path, || Tables::open(backend))?, saved))
}

/// Reads and checks a copy in memory. Opening a file may repair it, and a file that is refused must stay as it is, or the
/// next attempt would accept what the first one left.
fn examine(path: &Path) -> Result<(FileBackend, Option<SavedState>), StateError> {
    guarded(path, || {
        let backend = lock(path)?;
        let copy = MemoryCopy::of(&backend).map_err(|error| read_error(redb::Error::Io(error)))?;
        let saved = Tables::open_copy(copy)?.read()?;
        Ok((backend, saved))
    })
}

fn open_tables(path: &Path) -> Result<Tables, ReadError> {
    Tables::open(lock(path)?)
}

fn lock(path: &Path) -> Result<FileBackend, ReadError> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(ReadError::Io)?;
    FileBackend::new(file).map_err(database_error)
}

fn database_error(error: redb::DatabaseError) -> ReadError {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => ReadError::Busy,
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) => ReadError::Io(error),
        other => ReadError::Damaged(other.to_string()),
    }
}

/// Runs code that reads the file. If it panics the file is damaged, because redb asserts what a header says. In a build
/// whose panics abort, a hook prints the error before the process ends. Nothing else runs yet.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, ReadError>) -> Result<T, StateError> {
    #[cfg(panic = "abort")]
    let before = {
        let path = path.to_owned();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            use std::io::Write;
            let error = explain(&path, ReadError::Damaged(panic.to_string()));
            let _ = writeln!(io::stderr(), "registry-server: {error}");
            std::process::exit(1);
        }));
        before
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    #[cfg(panic = "abort")]
    std::panic::set_hook(before);
    let result = result.unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map(String::as_str);
        let why = why.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("its structure is broken");
        Err(ReadError::Damaged(why.to_owned()))
    });
    result.map_err(|error| explain(path, error))
}

fn explain(path: &Path, error: ReadError) -> StateError {
    let path_buf = path.to_owned();
    match error {
        ReadError::Busy => StateError::Busy { path: path_buf },
        ReadError::Io(error) => unusable(path, error),
        ReadError::Newer(why) => {
            StateError::Newer { copy: keep_copy(path, "newer-").ok(), path: path_buf, why }
        }
        ReadError::Damaged(why) => {
            StateError::Damaged { copy: keep_copy(path, "corrupt-").ok(), path: path_buf, why }
        }
    }
}

fn unusable(path: &Path, error: io::Error) -> StateError {
    StateError::unusable(path, error)
}

/// Copies a file that cannot be used to a name beside it, so that people who remove the file lose nothing. Equal copies
/// are made once, because a supervisor that restarts the server again and again must not fill the disk.
fn keep_copy(path: &Path, why: &str) -> io::Result<PathBuf> {
    let content = fs::read(path)?;
    let (directory, name) = (path.parent().unwrap_or(Path::new(".")), sibling(path, why));
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    for entry in fs::read_dir(directory)? {
        let other = entry?.path();
        let is_copy = other
            .file_name()
            .zip(name.file_name())
            .is_some_and(|(other, prefix)| other.to_string_lossy().starts_with(&*prefix.to_string_lossy()));
        if is_copy && fs::read(&other)? == content {
            return Ok(other);
        }
    }
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let copy = sibling(path, &format!("{why}{seconds}"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&copy)?;
    io::Write::write_all(&mut file, &content)?;
    file.sync_all()?;
    Ok(copy)
}

/// The path with `.` and `more` after its name.
fn sibling(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{more}"));
    PathBuf::from(name)
}
