//! MAINTENANCE_STATE: the file in which maintenance survives a restart of the sidecar.
//!
//! One JSON object, written to another name, synced and renamed, so that a crash leaves the old file or the new one.
//! A file that cannot be read is reported and ignored: it must not keep the application from starting.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use registry_client::MaintenanceTarget;

use super::windows::{Entry, Window, Windows};

/// The version of the format that is written and read.
const FORMAT: u64 = 1;
/// The most bytes that are read; the most windows with the longest reasons need less.
const MAX_FILE: u64 = 256 * 1024;

/// The path of the file.
#[derive(Debug)]
pub(super) struct StateFile(pub(super) PathBuf);

impl StateFile {
    /// The windows that were saved, as they are at `now`; none where there is no file yet.
    ///
    /// # Errors
    /// Says, for a person, why the file cannot be used.
    pub(super) fn load(&self, now: SystemTime) -> Result<Windows, String> {
        let file = match File::open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Windows::default()),
            Err(error) => return Err(error.to_string()),
        };
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).map_err(|error| error.to_string())?;
        let entries = parse(&text).ok_or("it is damaged, or of another version")?;
        Ok(Windows::restored(entries, now))
    }

    /// Replaces the file. Blocks until it is on the disk.
    ///
    /// # Errors
    /// The file system's. The file is then as it was.
    pub(super) fn save(&self, windows: &Windows) -> io::Result<()> {
        let mut new = self.0.clone().into_os_string();
        new.push(".new");
        let entries: Vec<Value> = windows.entries().iter().map(encode).collect();
        let text = json!({"format": FORMAT, "maintenance": entries});
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        let folder = self.0.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn encode(entry: &Entry) -> Value {
    match entry {
        Entry::Window(window) => json!({
            "target": target_text(&window.target),
            "reason": window.reason,
            "since": unix(window.since),
            "until": window.until.map(unix),
        }),
        Entry::Except(target) => json!({"target": target_text(target), "except": true}),
    }
}

fn parse(text: &str) -> Option<Vec<Entry>> {
    let value: Value = serde_json::from_str(text).ok()?;
    if value["format"].as_u64() != Some(FORMAT) {
        return None;
    }
    value["maintenance"].as_array()?.iter().map(parse_entry).collect()
}

fn parse_entry(value: &Value) -> Option<Entry> {
    let target = parse_target(value["target"].as_str()?)?;
    if value["except"].as_bool() == Some(true) {
        return Some(Entry::Except(target));
    }
    let until = match &value["until"] {
        Value::Null => None,
        until => Some(time(until)?),
    };
    let reason = value["reason"].as_str().map(str::to_owned);
    Some(Entry::Window(Window { target, reason, since: time(&value["since"])?, until }))
}

fn target_text(target: &MaintenanceTarget) -> String {
    match target {
        MaintenanceTarget::All => "all".to_owned(),
        MaintenanceTarget::Route(key) => format!("route:{key}"),
        MaintenanceTarget::Path(path) => format!("path:{path}"),
        MaintenanceTarget::Domain(domain) => format!("domain:{domain}"),
    }
}

fn parse_target(text: &str) -> Option<MaintenanceTarget> {
    if text == "all" {
        return Some(MaintenanceTarget::All);
    }
    let (kind, name) = text.split_once(':')?;
    match kind {
        "route" => Some(MaintenanceTarget::Route(name.into())),
        "path" => name.parse().ok().map(MaintenanceTarget::Path),
        "domain" => name.parse().ok().map(MaintenanceTarget::Domain),
        _ => None,
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(value: &Value) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(value.as_u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::TempDir, StateFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("maintenance.json");
        (folder, StateFile(path))
    }

    fn windows(now: SystemTime) -> Windows {
        let mut windows = Windows::default();
        let until = Some(now + Duration::from_secs(1_800));
        let reason = Some("moving \"the\" data\u{e9}".to_owned());
        windows.enter(Window { target: MaintenanceTarget::All, reason, since: now, until });
        for target in [
            MaintenanceTarget::Path("/admin".parse().unwrap()),
            MaintenanceTarget::Domain("*.example.com".parse().unwrap()),
        ] {
            windows.enter(Window { target, reason: None, since: now, until: None });
        }
        windows.exit(&MaintenanceTarget::Route("ROUTES[1]: x".into()));
        windows
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000)
    }

    #[test]
    fn what_is_saved_is_loaded_and_no_file_is_nothing() {
        let (_folder, file) = file();
        assert_eq!(file.load(now()), Ok(Windows::default()));
        file.save(&windows(now())).unwrap();
        assert_eq!(file.load(now()), Ok(windows(now())));
        file.save(&Windows::default()).unwrap();
        assert_eq!(file.load(now()), Ok(Windows::default()));
    }

    #[test]
    fn a_file_that_is_cut_anywhere_or_of_another_format_is_refused_and_never_half_believed() {
        let (_folder, file) = file();
        file.save(&windows(now())).unwrap();
        let whole = fs::read(&file.0).unwrap();
        // Without its line end it is whole.
        for length in 0..whole.len() - 1 {
            fs::write(&file.0, &whole[..length]).unwrap();
            assert!(file.load(now()).is_err(), "{length} bytes");
        }
        for damaged in ["{}", "[]", r#"{"format":2,"maintenance":[]}"#, r#"{"format":1,"maintenance":[{}]}"#]
        {
            fs::write(&file.0, damaged).unwrap();
            assert!(file.load(now()).is_err(), "{damaged}");
        }
        fs::write(&file.0, vec![b' '; 2 * MAX_FILE as usize]).unwrap();
        assert!(file.load(now()).is_err());
    }

    #[test]
    fn a_save_that_fails_leaves_the_file_as_it_was() {
        let (folder, file) = file();
        file.save(&windows(now())).unwrap();
        fs::create_dir(folder.path().join("maintenance.json.new")).unwrap();
        assert!(file.save(&Windows::default()).is_err());
        assert_eq!(file.load(now()), Ok(windows(now())));
    }
}
