//! STATE_FILE: what is applied is on the disk before it is answered (PROTOCOL section 4, SEMANTICS section 7).
//!
//! One thread owns the file. It takes every change that waits, writes all of them in one transaction, waits
//! for the disk once, and tells the verdicts. So the registry's task never touches the disk, and many applies
//! at once cost little more than one.

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

use super::copy::MemoryCopy;
use super::database::{ReadError, Tables, WriteError, read_error};
use super::{Decision, Store};

/// How many changes one transaction has at most: the first of them waits for the last.
const BATCH: usize = 4096;
/// How many changes may wait. Beyond that a change is rejected at once.
const OUTSTANDING: usize = 65_536;
/// How often the file learns that the server is alive, unless the grace asks for it more often.
const ALIVE: Duration = Duration::from_secs(30);
/// From one try to open a file again that could not be written to the next.
const REOPEN: Duration = Duration::from_secs(1);

/// Why a state file cannot be used. The server does not start: what is in the file is worth more than a start.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system does not let us.
    #[error(
        "STATE_FILE={}: {error}; this process runs as user {user} and must be able to read and write the file and its directory",
        path.display()
    )]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
        /// As whom it was tried.
        user: u32,
    },
    /// Another process has it open.
    #[error("STATE_FILE={}: another process has it open; two servers cannot share a file", path.display())]
    Busy {
        /// Which file.
        path: PathBuf,
    },
    /// It is damaged, or something else.
    #[error(
        "STATE_FILE={}: damaged, or no state file: {why}. {}. To start without what it holds, move it away: \
         sidecars register again by themselves",
        path.display(),
        kept(copy.as_deref())
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// Where a copy of it is.
        copy: Option<PathBuf>,
    },
    /// It was written by a newer version.
    #[error(
        "STATE_FILE={}: {why}. {}; start the newer version",
        path.display(),
        kept(copy.as_deref())
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// What this version does not know.
        why: String,
        /// Where a copy of it is.
        copy: Option<PathBuf>,
    },
    /// It holds a state already.
    #[error("STATE_FILE={}: it exists already and is not overwritten", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
}

impl StateError {
    /// The system does not let this process use the file at `path`.
    pub(crate) fn unusable(path: &Path, error: io::Error) -> Self {
        // There is no other way to ask without unsafe code.
        let user = fs::metadata("/proc/self").map_or(0, |metadata| metadata.uid());
        StateError::Unusable { path: path.to_owned(), error, user }
    }
}

fn kept(copy: Option<&Path>) -> String {
    copy.map_or("It is left as it is".to_owned(), |copy| format!("A copy is kept as {}", copy.display()))
}

/// A store in a file. Dropping it lets the thread write what waits, and end; who wants to wait for that has
/// [`Store::take_end`].
#[derive(Debug)]
pub struct FileStore {
    saved: Option<SavedState>,
    changes: mpsc::Sender<(Tx, StoreChange)>,
    verdicts: tokio::sync::mpsc::UnboundedReceiver<(Tx, Decision)>,
    outstanding: usize,
    /// Its other end is dropped when the thread has ended.
    end: Option<oneshot::Receiver<()>>,
    _alive: Arc<()>,
}

impl FileStore {
    /// Opens the file, or makes it, readable for its owner alone; reads what it holds. Blocks.
    ///
    /// `boot_id` is that of this machine, `grace` how soon a server that is not heard of counts as gone.
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
            // An empty file, as one makes it for a bind mount.
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
        let (answers, verdicts) = tokio::sync::mpsc::unbounded_channel();
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
            // The queue's other end is gone: every change is rejected.
            error!(%error, "cannot start the thread that writes STATE_FILE");
        }
        FileStore { saved, changes, verdicts, outstanding: 0, end: Some(end), _alive: owner }
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
        match self.verdicts.poll_recv(cx) {
            Poll::Ready(Some(verdict)) => {
                self.outstanding = self.outstanding.saturating_sub(1);
                Poll::Ready(verdict)
            }
            // The thread is gone, which `commit` notices too.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// How to open the file again after it could not be written.
pub(super) type Reopen = Box<dyn Fn() -> Result<Tables, ReadError> + Send>;

/// The thread's.
struct Writer {
    /// `None`: it failed, and is opened again for the next change.
    tables: Option<Tables>,
    /// Of the last transaction.
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
        // So that a server that is killed before its first change is known to have lived on this boot.
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
            let verdict = self.write_batch(&batch);
            for (tx, _) in batch.drain(..) {
                // Nobody listens any more: the server is going down.
                let _ = answers.send((tx, verdict));
            }
        }
    }

    /// Writes changes, and says what became of them for certain.
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

    /// A transaction may be in the file or not: nobody is told anything before the file has. Until then its
    /// clients hear that the store is unavailable, and find the truth in the session's revision.
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

/// Reads what an existing file holds, and leaves it as it is.
///
/// # Errors
/// See [`StateError`].
pub(super) fn load(path: &Path) -> Result<SavedState, StateError> {
    Ok(examine(path)?.1.unwrap_or_default())
}

/// Makes a file that holds `saved`. It has its name only once it is complete and on the disk.
pub(super) fn create(path: &Path, saved: &SavedState) -> Result<(), StateError> {
    if path.exists() {
        return Err(StateError::Exists { path: path.to_owned() });
    }
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

/// A state of no sessions, with an identity of its own. Without random bits the registry chooses one.
fn empty_state() -> SavedState {
    let mut bytes = [0; 16];
    let cluster_id = match getrandom::fill(&mut bytes) {
        Ok(()) => format!("{:032x}", u128::from_ne_bytes(bytes)),
        Err(_) => String::new(),
    };
    SavedState { cluster_id, ..SavedState::default() }
}

/// Opens an existing file, and reads what it holds; `None`: nothing yet.
fn open(path: &Path) -> Result<(Tables, Option<SavedState>), StateError> {
    let (backend, saved) = examine(path)?;
    Ok((guarded(path, || Tables::open(backend))?, saved))
}

/// Reads and checks a copy in memory: opening a file may repair it, and one that is refused must stay as it
/// is, or the next try would take for good what the first one left.
fn examine(path: &Path) -> Result<(FileBackend, Option<SavedState>), StateError> {
    guarded(path, || {
        let backend = lock(path)?;
        let copy = MemoryCopy::of(&backend).map_err(|error| read_error(redb::Error::Io(error)))?;
        let mut tables = Tables::open(copy)?;
        Ok((backend, tables.check()?))
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

/// Does what reads the file. Where that panics, the file is damaged: redb asserts what a header says. A build
/// whose panics abort says so too before it ends; nothing else runs yet.
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

/// Keeps a file that cannot be used as it is, next to it, once: whoever makes room for a new one by removing it has
/// lost nothing, and a supervisor that starts us again and again must not fill the disk.
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

/// The path with `.` and `more` behind its name.
fn sibling(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{more}"));
    PathBuf::from(name)
}
