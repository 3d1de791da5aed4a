//! Stories about the state file: what is in it, and what becomes of one that is not as it should be.

pub(super) mod contract;
mod story;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use redb::{ReadableTable, StorageBackend};

use crate::server::registry::persist::{
    IdHash, MaintenanceRecord, RouteRecord, SavedSession, SavedState, SessionMarks, SessionRecord,
};
use crate::server::registry::{Delta, EndReason, Route, RouteSettings, SessionNo, StoreChange, Tx};
use registry_client::protocol::{RouteId, SessionId};

pub(super) use story::Story;

use super::database::{ReadError, Tables};
use super::{Decision, FileStore, ImportError, StateError, Store, export, file, import};

const GRACE: Duration = Duration::from_secs(300);

pub(super) fn session(no: u64, revision: u64) -> SessionRecord {
    let id: SessionId = format!("web-{no}-1700000000000-{no:032x}").parse().unwrap();
    SessionRecord {
        no,
        id_sha256: IdHash::of(&id),
        service: "web".parse().unwrap(),
        instance: format!("web-{no}").parse().unwrap(),
        maintenance_port: None,
        metadata: serde_json::Map::new(),
        service_token_hash: None,
        peer: "10.2.2.7".parse::<IpAddr>().unwrap(),
        shared_address: false,
        revision,
        last_route: 2,
        connected_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        last_apply: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_001),
        defaults: RouteSettings::default(),
        defaults_applied: 0,
        replaced: Vec::new(),
        kin: BTreeMap::new(),
    }
}

pub(super) fn route(domain: &str) -> RouteRecord {
    let json = format!(
        r#"{{"domains":["{domain}"],"path":"/","backend":"http://10.2.2.7:80/","priority":1,"applied":1}}"#
    );
    serde_json::from_str(&json).unwrap()
}

/// An apply that leaves a session with these routes, and without those of no domain.
pub(super) fn applied(no: u64, revision: u64, routes: &[(u32, Option<&str>)]) -> StoreChange {
    let routes = routes.iter().map(|(id, domain)| {
        let record = domain.map(route);
        (RouteId(*id), record.map(|record| Arc::new(Route::from(record))))
    });
    let delta = Delta { routes: routes.collect(), defaults: None };
    let (session, delta) = (Box::new(session(no, revision)), Arc::new(delta));
    StoreChange::Applied { session, applied: 1, delta, maintenance: None }
}

fn saved_session(no: u64, revision: u64, routes: &[(u32, &str)]) -> SavedSession {
    let routes = routes.iter().map(|(id, domain)| (RouteId(*id), route(domain)));
    let routes = routes.collect::<BTreeMap<_, _>>();
    let (maintenance, marks) = (MaintenanceRecord::default(), SessionMarks::default());
    SavedSession { session: session(no, revision), maintenance, marks, routes }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("registry.redb")
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn open(path: &Path) -> Result<FileStore, StateError> {
    // The thread of a store that was dropped a moment ago may still have the file.
    for _ in 0..2000 {
        match FileStore::open(path, "boot", GRACE) {
            Err(StateError::Busy { .. }) => std::thread::sleep(Duration::from_millis(1)),
            opened => return opened,
        }
    }
    panic!("the file stays busy");
}

/// Gives changes to a store, all at once, and waits for what becomes of them.
fn decisions(store: &mut FileStore, changes: Vec<StoreChange>) -> Vec<Decision> {
    let count = changes.len();
    for (number, change) in changes.into_iter().enumerate() {
        assert_eq!(store.commit(Tx(number as u64), change), Poll::Pending);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut found = Vec::new();
        while found.len() < count {
            let decision = std::future::poll_fn(|cx| store.poll_decision(cx));
            let (tx, decision) = tokio::time::timeout(Duration::from_secs(10), decision).await.unwrap();
            assert_eq!(tx, Tx(found.len() as u64), "in the order of the changes");
            found.push(decision);
        }
        found
    })
}

#[test]
fn what_was_committed_is_there_when_the_file_is_opened_again() {
    let folder = Folder::new();
    let mut store = open(&folder.file()).unwrap();
    let first = store.take_saved().unwrap();
    assert_eq!((first.sessions.len(), first.cluster_id.len()), (0, 32));
    let changes = vec![
        applied(1, 1, &[(1, Some("a.de")), (2, Some("b.de"))]),
        applied(2, 1, &[(1, Some("c.de"))]),
        applied(3, 1, &[(1, Some("d.de"))]),
        applied(1, 2, &[(1, None), (3, Some("e.de"))]),
        StoreChange::Ended(SessionNo(2), EndReason::ShutDown),
    ];
    assert_eq!(decisions(&mut store, changes), [Decision::Committed; 5]);
    drop(store);
    let saved = open(&folder.file()).unwrap().take_saved().unwrap();
    assert_eq!(saved.boot_id, "boot");
    assert_eq!(saved.cluster_id, first.cluster_id);
    assert!(saved.alive_at.unwrap().elapsed().unwrap() < GRACE);
    let expected = [saved_session(1, 2, &[(2, "b.de"), (3, "e.de")]), saved_session(3, 1, &[(1, "d.de")])];
    assert_eq!(saved.sessions, expected);
}

#[test]
fn the_file_is_for_its_owner_alone_and_nothing_else_is_left() {
    let folder = Folder::new();
    // What a server left that was killed while it made the file.
    std::fs::write(folder.0.path().join("registry.redb.new"), "half").unwrap();
    open(&folder.file()).unwrap();
    let mode = std::fs::metadata(folder.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(folder.names(), ["registry.redb"]);
}

#[test]
fn an_empty_file_is_a_state_of_nobody() {
    let folder = Folder::new();
    std::fs::write(folder.file(), "").unwrap();
    assert_eq!(open(&folder.file()).unwrap().take_saved().unwrap().sessions, []);
    assert_eq!(open(&folder.file()).unwrap().take_saved().unwrap().cluster_id.len(), 32);
}

#[test]
fn a_directory_that_is_missing_is_named_with_the_variable_and_the_user() {
    let folder = Folder::new();
    let error = open(&folder.0.path().join("none/registry.redb")).unwrap_err().to_string();
    for part in ["STATE_FILE=", "none/registry.redb", "No such file or directory", "runs as user "] {
        assert!(error.contains(part), "{part} is missing: {error}");
    }
}

#[test]
fn two_servers_do_not_share_a_file() {
    let folder = Folder::new();
    let _first = open(&folder.file()).unwrap();
    let second = FileStore::open(&folder.file(), "boot", GRACE).unwrap_err();
    assert!(second.to_string().contains("another process has it open"), "{second}");
    assert!(matches!(export(&folder.file()), Err(StateError::Busy { .. })));
}

/// Bits that fall over, ends that are missing: what is read is what was written, or an error with a copy.
#[test]
fn a_damaged_file_is_refused_and_kept() {
    let folder = Folder::new();
    let mut store = open(&folder.file()).unwrap();
    let many = (1..200).map(|no| applied(no, 1, &[(1, Some("a.de")), (2, Some("b.de"))])).collect();
    decisions(&mut store, many);
    drop(store);
    let good = open(&folder.file()).unwrap().take_saved().unwrap();
    // When it can be opened again, the store's thread has closed it.
    drop(open(&folder.file()).unwrap());
    let bytes = std::fs::read(folder.file()).unwrap();
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut refused, mut read) = (0, 0);
    for number in 0..120 {
        let folder = Folder::new();
        let mut damaged = bytes.clone();
        match number % 4 {
            0 => damaged.truncate(random.usize(1..bytes.len())),
            1 => damaged[random.usize(..40)] ^= 1 << random.u8(..8),
            2 => (0..64).for_each(|_| damaged[random.usize(..bytes.len())] = random.u8(..)),
            _ => damaged[random.usize(..bytes.len())] ^= 1 << random.u8(..8),
        }
        if damaged == bytes {
            continue;
        }
        std::fs::write(folder.file(), &damaged).unwrap();
        match FileStore::open(&folder.file(), "boot", GRACE) {
            Ok(mut store) => {
                read += 1;
                assert_eq!(store.take_saved().unwrap().sessions, good.sessions, "damage {number}");
            }
            Err(StateError::Damaged { copy, .. }) => {
                refused += 1;
                for kept in [copy.unwrap(), folder.file()] {
                    assert!(std::fs::read(kept).unwrap() == damaged, "damage {number}: it is as it was");
                }
            }
            Err(other) => panic!("damage {number}: {other}"),
        }
    }
    println!("{refused} refused, {read} read in spite of it");
    assert!(refused > 30, "{refused} refused, {read} read");
}

#[test]
fn a_file_of_something_else_is_refused_and_one_copy_is_kept() {
    let folder = Folder::new();
    std::fs::write(folder.file(), "SQLite format 3\0".repeat(1000)).unwrap();
    for _ in 0..3 {
        let error = open(&folder.file()).unwrap_err().to_string();
        assert!(error.contains("damaged, or no state file") && error.contains(".corrupt-"), "{error}");
    }
    assert_eq!(folder.names().len(), 2, "{:?}", folder.names());
    let copy = folder.0.path().join(&folder.names()[1]);
    assert_eq!(std::fs::read(copy).unwrap(), std::fs::read(folder.file()).unwrap());
}

#[test]
fn what_a_newer_version_wrote_is_refused_and_says_so() {
    let folder = Folder::new();
    drop(open(&folder.file()).unwrap());
    let raw = || loop {
        if let Ok(database) = redb::Database::open(folder.file()) {
            break database;
        }
    };
    let put = |table: &str, key: &str, value: &str| {
        let database = raw();
        let writing = database.begin_write().unwrap();
        if table == "meta" {
            let definition = redb::TableDefinition::<&str, &[u8]>::new("meta");
            writing.open_table(definition).unwrap().insert(key, value.as_bytes()).unwrap();
        } else {
            let definition = redb::TableDefinition::<u64, &[u8]>::new("sessions");
            writing.open_table(definition).unwrap().insert(1, value.as_bytes()).unwrap();
        }
        writing.commit().unwrap();
    };
    let json = serde_json::to_string(&session(1, 1)).unwrap();
    put("sessions", "", &json.replacen('{', r#"{"colour":"blue","#, 1));
    let error = open(&folder.file()).unwrap_err();
    assert!(matches!(error, StateError::Newer { .. }) && error.to_string().contains("colour"), "{error}");
    put("meta", "format", "3");
    let error = open(&folder.file()).unwrap_err();
    assert!(matches!(error, StateError::Newer { .. }) && error.to_string().contains("format 3"), "{error}");
    let StateError::Newer { copy: Some(copy), .. } = error else { panic!("no copy is kept") };
    assert!(copy.to_string_lossy().contains("registry.redb.newer-"), "{}", copy.display());
    assert!(std::fs::read(copy).unwrap() == std::fs::read(folder.file()).unwrap());
}

pub(super) fn maintenance() -> MaintenanceRecord {
    serde_json::from_str(
        r#"{
            "all": {"at": "2026-11-21T14:00:00Z", "page": {"url": "http://10.2.2.7:3001/", "peer": "10.2.2.7"}},
            "routes": {"r1": null, "r2": {"at": "2026-11-21T15:00:00Z"}}
        }"#,
    )
    .unwrap()
}

#[test]
fn maintenance_is_held_beside_what_is_applied_and_goes_with_its_session() {
    let folder = Folder::new();
    let mut store = open(&folder.file()).unwrap();
    let entered = |no: u64, record| StoreChange::Maintenance(vec![(SessionNo(no), record)]);
    let changes = vec![
        applied(1, 1, &[(1, Some("a.de"))]),
        applied(2, 1, &[]),
        applied(3, 1, &[]),
        StoreChange::Maintenance([1, 2, 3].map(|no| (SessionNo(no), maintenance())).to_vec()),
        applied(1, 2, &[]),
        entered(2, MaintenanceRecord::default()),
        StoreChange::Ended(SessionNo(3), EndReason::ShutDown),
        entered(3, maintenance()),
    ];
    assert_eq!(decisions(&mut store, changes), [Decision::Committed; 8]);
    drop(store);
    let saved = open(&folder.file()).unwrap().take_saved().unwrap();
    let held: Vec<_> = saved.sessions.iter().map(|saved| (saved.session.no, &saved.maintenance)).collect();
    assert_eq!(held, [(1, &maintenance()), (2, &MaintenanceRecord::default())]);
}

/// Written by the version before maintenance was held.
#[test]
fn a_file_and_an_export_of_format_1_are_read_and_become_format_2_with_the_first_change() {
    let folder = Folder::new();
    let mut store = open(&folder.file()).unwrap();
    decisions(&mut store, vec![applied(1, 1, &[(1, Some("a.de"))])]);
    drop(store);
    drop(open(&folder.file()).unwrap());
    let format = |set: Option<&str>| loop {
        let Ok(database) = redb::Database::open(folder.file()) else { continue };
        let writing = database.begin_write().unwrap();
        let definition = redb::TableDefinition::<&str, &[u8]>::new("meta");
        let mut meta = writing.open_table(definition).unwrap();
        let before = meta.get("format").unwrap().unwrap().value().to_vec();
        if let Some(format) = set {
            meta.insert("format", format.as_bytes()).unwrap();
            let maintenance = redb::TableDefinition::<u64, &[u8]>::new("maintenance");
            writing.delete_table(maintenance).unwrap();
        }
        drop(meta);
        writing.commit().unwrap();
        break String::from_utf8(before).unwrap();
    };
    assert_eq!(format(Some("1")), "2");
    let mut store = open(&folder.file()).unwrap();
    assert_eq!(store.take_saved().unwrap().sessions, [saved_session(1, 1, &[(1, "a.de")])]);
    let change = StoreChange::Maintenance(vec![(SessionNo(1), maintenance())]);
    assert_eq!(decisions(&mut store, vec![change]), [Decision::Committed]);
    drop(store);
    assert_eq!(open(&folder.file()).unwrap().take_saved().unwrap().sessions[0].maintenance, maintenance());
    assert_eq!(format(None), "2");

    let old = r#"{"format": 1, "server": "registry-server/0.1.0", "state": {"boot_id": "", "alive_at": null,
        "cluster_id": "c1", "sessions": []}}"#;
    assert_eq!(import(&folder.0.path().join("old.redb"), old).unwrap(), 0);
}

#[test]
fn an_export_is_imported_as_it_was_and_never_over_something() {
    let folder = Folder::new();
    let mut store = open(&folder.file()).unwrap();
    let changes = vec![
        applied(1, 1, &[(1, Some("a.de"))]),
        applied(2, 7, &[]),
        StoreChange::Maintenance(vec![(SessionNo(1), maintenance())]),
    ];
    decisions(&mut store, changes);
    drop(store);
    let json = loop {
        match export(&folder.file()) {
            Err(StateError::Busy { .. }) => std::thread::sleep(Duration::from_millis(1)),
            exported => break exported.unwrap(),
        }
    };
    assert!(json.contains("http://10.2.2.7:3001/"), "{json}");
    let copy = folder.0.path().join("copy.redb");
    assert_eq!(import(&copy, &json).unwrap(), 2);
    assert_eq!(export(&copy).unwrap(), json);
    assert!(matches!(import(&copy, &json), Err(ImportError::File(StateError::Exists { .. }))));

    let other = folder.0.path().join("other.redb");
    let newer = json.replacen("\"format\": 2", "\"format\": 9", 1);
    assert!(matches!(import(&other, &newer), Err(ImportError::Newer(9))));
    for wrong in
        ["", "{}", "[]", &json.replace("a.de", "a b"), &json.replace("\"revision\"", "\"reversion\"")]
    {
        assert!(matches!(import(&other, wrong), Err(ImportError::Document(_))), "{wrong}");
    }
    assert!(!other.exists());
}

/// Somebody keeps exports, and reads them with programs: no version reads this one otherwise, or writes it otherwise.
#[test]
fn the_form_of_an_export_is_what_it_was() {
    const EXPORT: &str = include_str!("../export-of-format-2.json");
    let folder = Folder::new();
    assert_eq!(import(&folder.file(), EXPORT).unwrap(), 3);
    let ours = concat!("registry-server/", env!("CARGO_PKG_VERSION"));
    assert_eq!(export(&folder.file()).unwrap().trim(), EXPORT.replace("registry-server/0.1.0", ours).trim());
}

/// Bytes in memory that fail when they are told to.
#[derive(Debug, Clone, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    failing: Arc<AtomicU8>,
    failures: Arc<AtomicUsize>,
    syncs: Arc<AtomicUsize>,
    /// Held by whoever wants the next sync to wait.
    busy: Arc<Mutex<()>>,
}

const WELL: u8 = 0;
const NO_WRITE: u8 = 1;
/// What is written arrives; the disk only says that it did not.
const NO_SYNC: u8 = 2;

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        out.copy_from_slice(&self.bytes.lock().unwrap()[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        drop(self.busy.lock().unwrap());
        match self.failing.load(Ordering::SeqCst) {
            WELL => Ok(()),
            _ => Err(self.fail()),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.failing.load(Ordering::SeqCst) == NO_WRITE {
            return Err(self.fail());
        }
        let offset = offset as usize;
        self.bytes.lock().unwrap()[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl Disk {
    fn fail(&self) -> io::Error {
        self.failures.fetch_add(1, Ordering::SeqCst);
        io::Error::from(io::ErrorKind::StorageFull)
    }

    /// Gives a store a change while the disk fails, and lets the disk recover once it has.
    fn fails_while(&self, how: u8, commit: impl FnOnce()) {
        let before = self.failures.load(Ordering::SeqCst);
        self.failing.store(how, Ordering::SeqCst);
        commit();
        while self.failures.load(Ordering::SeqCst) == before {
            std::thread::yield_now();
        }
        self.failing.store(WELL, Ordering::SeqCst);
    }

    fn store(&self) -> FileStore {
        let disk = self.clone();
        let tables = Tables::open(disk.clone()).unwrap();
        tables.fill(&SavedState::default()).unwrap();
        let reopen: Box<dyn Fn() -> Result<Tables, ReadError> + Send> =
            Box::new(move || Tables::open(disk.clone()));
        FileStore::start(tables, None, "test".to_owned(), "boot".to_owned(), GRACE, reopen)
    }

    /// What a server would find that was started now.
    fn sessions(&self) -> Vec<SavedSession> {
        let copy =
            Disk { bytes: Arc::new(Mutex::new(self.bytes.lock().unwrap().clone())), ..Disk::default() };
        Tables::open(copy).unwrap().read().unwrap().unwrap().sessions
    }
}

#[test]
fn a_disk_that_is_full_rejects_changes_until_it_is_not() {
    let disk = Disk::default();
    let mut store = disk.store();
    assert_eq!(decisions(&mut store, vec![applied(1, 1, &[])]), [Decision::Committed]);
    for _ in 0..3 {
        disk.fails_while(NO_WRITE, || assert!(store.commit(Tx(0), applied(2, 1, &[])).is_pending()));
        assert_eq!(next_verdict(&mut store), Decision::Rejected);
        assert_eq!(disk.sessions(), [saved_session(1, 1, &[])]);
    }
    assert_eq!(decisions(&mut store, vec![applied(2, 1, &[])]), [Decision::Committed]);
    assert_eq!(disk.sessions().len(), 2);
}

#[test]
fn what_comes_while_the_disk_is_busy_is_on_it_with_one_more_transaction() {
    let disk = Disk::default();
    let mut store = disk.store();
    assert_eq!(decisions(&mut store, vec![applied(1, 1, &[])]), [Decision::Committed]);
    let syncs = || disk.syncs.load(Ordering::SeqCst);
    let before = syncs();
    assert_eq!(decisions(&mut store, vec![applied(2, 1, &[])]), [Decision::Committed]);
    let of_one = syncs() - before;

    let busy = disk.busy.lock().unwrap();
    let before = syncs();
    let first = std::iter::once(applied(3, 1, &[]));
    let mut all: Vec<StoreChange> = first.chain((4..200).map(|no| applied(no, 1, &[]))).collect();
    let rest = all.split_off(1);
    assert!(store.commit(Tx(0), all.remove(0)).is_pending());
    while syncs() == before {
        std::thread::yield_now();
    }
    for (number, change) in rest.into_iter().enumerate() {
        assert!(store.commit(Tx(1 + number as u64), change).is_pending());
    }
    drop(busy);
    for _ in 3..200 {
        assert_eq!(next_verdict(&mut store), Decision::Committed);
    }
    assert_eq!(syncs() - before, 2 * of_one, "one for the first, and one for all the others");
    assert_eq!(disk.sessions().len(), 199);
}

/// The worst that a disk can do: nobody knows whether the change is on it.
#[test]
fn a_change_of_unknown_fate_is_neither_confirmed_nor_rejected_before_the_file_has_told() {
    let disk = Disk::default();
    let mut store = disk.store();
    assert_eq!(decisions(&mut store, vec![applied(1, 1, &[])]), [Decision::Committed]);
    disk.fails_while(NO_SYNC, || assert!(store.commit(Tx(0), applied(2, 1, &[])).is_pending()));
    let decision = next_verdict(&mut store);
    assert_eq!(decision == Decision::Committed, disk.sessions().len() == 2, "{decision:?}");
    assert_eq!(decisions(&mut store, vec![applied(3, 1, &[])]), [Decision::Committed]);
}

fn next_verdict(store: &mut FileStore) -> Decision {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let decision = std::future::poll_fn(|cx| store.poll_decision(cx));
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), decision).await.unwrap().1 })
}

#[test]
fn nothing_is_written_by_a_look() {
    let folder = Folder::new();
    drop(open(&folder.file()).unwrap());
    let missing = folder.0.path().join("none.redb");
    assert!(matches!(export(&missing), Err(StateError::Unusable { .. })));
    assert!(!missing.exists());
    assert!(matches!(file::create(&folder.file(), &SavedState::default()), Err(StateError::Exists { .. })));
}
