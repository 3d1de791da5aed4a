//! What operators have put into maintenance, why, and until when; and what to ask of the sessions when that changes.
//! Pure: time is an argument.
//!
//! The last window or exception that concerns a route decides: an exit is an exception to the windows before it.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use registry_client::protocol::{BackendUrl, GoDuration};
use registry_client::{MaintenanceAction, MaintenanceRequest, MaintenanceTarget};

/// A window: maintenance of a target, from an operator's command until its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) target: MaintenanceTarget,
    /// Why, in an operator's words; shown on the page.
    pub(crate) reason: Option<String>,
    pub(crate) since: SystemTime,
    /// When it ends by itself; `None` until somebody ends it.
    pub(crate) until: Option<SystemTime>,
}

/// A window, or an exception to earlier windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Window(Window),
    /// Earlier windows do not count for this target.
    Except(MaintenanceTarget),
}

/// All windows and exceptions, oldest first; no two have the same target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Windows {
    entries: Vec<Entry>,
}

/// A change of the windows.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// Opens a window, in the place of one for the same target.
    Enter(Window),
    /// Ends maintenance of the target; `All` ends it for everything.
    Exit(MaintenanceTarget),
    /// Ends the windows that are over at this time.
    Expire(SystemTime),
}

/// The most windows and exceptions; the oldest is dropped.
pub(super) const MAX_WINDOWS: usize = 64;

impl Windows {
    /// The windows that a former process saved. A window that is over by now becomes an exception, so that a registry
    /// that still has it is asked to leave it.
    pub(super) fn restored(entries: Vec<Entry>, now: SystemTime) -> Windows {
        let ended = |entry: Entry| match entry {
            Entry::Window(window) if window.is_over(now) => Entry::Except(window.target),
            other => other,
        };
        Windows { entries: entries.into_iter().take(MAX_WINDOWS).map(ended).collect() }
    }

    /// Makes a change, and returns the windows that expired.
    pub(super) fn apply(&mut self, change: Change) -> Vec<Window> {
        match change {
            Change::Enter(window) => self.enter(window),
            Change::Exit(target) => self.exit(&target),
            Change::Expire(now) => return self.expire(now),
        }
        Vec::new()
    }

    /// What to ask of a session after `change` has turned `before` into these windows, and `ended` expired.
    /// Maintenance of everything is not asked for here, because it is part of the session's visibility.
    /// `asked_for_targets` says that the session was asked for single targets since nothing was last in maintenance.
    pub(super) fn requests_since(
        &self,
        before: &Windows,
        change: &Change,
        ended: &[Window],
        asked_for_targets: bool,
        page: Option<&BackendUrl>,
    ) -> Vec<MaintenanceRequest> {
        let exit = |target| MaintenanceRequest { target, action: MaintenanceAction::Exit };
        let enter = |target| MaintenanceRequest { target, action: MaintenanceAction::Enter(page.cloned()) };
        let exit_all = asked_for_targets.then_some(MaintenanceTarget::All).map(exit);
        match change {
            _ if self.covers_everything() => Vec::new(),
            Change::Exit(MaintenanceTarget::All) => exit_all.into_iter().collect(),
            Change::Enter(window) if !before.covers_everything() => vec![enter(window.target.clone())],
            Change::Exit(target) if !before.covers_everything() => vec![exit(target.clone())],
            Change::Expire(_) if ended.is_empty() => Vec::new(),
            // An older window may count again where one has ended, so ask for all in their order.
            Change::Expire(_) if !before.covers_everything() => {
                let exits = ended.iter().map(|window| exit(window.target.clone()));
                exits.chain(self.requests(page)).collect()
            }
            _ => exit_all.into_iter().chain(self.requests(page)).collect(),
        }
    }

    pub(super) fn enter(&mut self, window: Window) {
        self.forget(&window.target);
        if self.entries.len() >= MAX_WINDOWS {
            self.entries.remove(0);
        }
        self.entries.push(Entry::Window(window));
    }

    pub(super) fn exit(&mut self, target: &MaintenanceTarget) {
        self.forget(target);
        if !self.entries.is_empty() && self.entries.len() < MAX_WINDOWS {
            self.entries.push(Entry::Except(target.clone()));
        }
        self.drop_idle_exceptions();
    }

    fn expire(&mut self, now: SystemTime) -> Vec<Window> {
        let over = |entry: &Entry| matches!(entry, Entry::Window(window) if window.is_over(now));
        let (gone, left) = std::mem::take(&mut self.entries).into_iter().partition(over);
        self.entries = left;
        self.drop_idle_exceptions();
        gone.into_iter().filter_map(Entry::into_window).collect()
    }

    /// When the next window ends by itself.
    pub(super) fn next_end(&self) -> Option<SystemTime> {
        self.windows().filter_map(|window| window.until).min()
    }

    /// Whether everything is in maintenance, without exception.
    pub(super) fn covers_everything(&self) -> bool {
        let all = self.windows().any(|window| window.target == MaintenanceTarget::All);
        all && self.entries.iter().all(|entry| matches!(entry, Entry::Window(_)))
    }

    /// The windows, oldest first.
    pub(crate) fn windows(&self) -> impl Iterator<Item = &Window> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Window(window) => Some(window),
            Entry::Except(_) => None,
        })
    }

    /// The windows, and the exceptions (`except`), as the control socket shows them at `now`.
    pub(crate) fn as_json(&self, now: SystemTime) -> Value {
        let show = |entry: &Entry| match entry {
            Entry::Window(window) => json!({
                "target": window.target.to_string(),
                "reason": window.reason,
                "since_seconds": now.duration_since(window.since).unwrap_or_default().as_secs(),
                "remaining_seconds": window.remaining(now).map(|left| left.as_secs()),
            }),
            Entry::Except(target) => json!({"target": target.to_string(), "except": true}),
        };
        self.entries.iter().map(show).collect()
    }

    /// The windows and the exceptions to them, oldest first.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What to ask of a session that has been asked for nothing yet; its maintenance page is `page`.
    pub(super) fn requests(&self, page: Option<&BackendUrl>) -> Vec<MaintenanceRequest> {
        let request = |entry: &Entry| match entry {
            Entry::Window(window) => MaintenanceRequest {
                target: window.target.clone(),
                action: MaintenanceAction::Enter(page.cloned()),
            },
            Entry::Except(target) => {
                MaintenanceRequest { target: target.clone(), action: MaintenanceAction::Exit }
            }
        };
        self.entries.iter().map(request).collect()
    }

    fn forget(&mut self, target: &MaintenanceTarget) {
        match target {
            MaintenanceTarget::All => self.entries.clear(),
            target => self.entries.retain(|entry| entry.target() != target),
        }
    }

    /// Drops exceptions that have no window before them.
    fn drop_idle_exceptions(&mut self) {
        let idle = self.entries.iter().take_while(|entry| matches!(entry, Entry::Except(_))).count();
        self.entries.drain(..idle);
    }
}

impl Window {
    fn is_over(&self, now: SystemTime) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// How long it goes on; `None` until somebody ends it.
    pub(crate) fn remaining(&self, now: SystemTime) -> Option<Duration> {
        self.until.map(|until| until.duration_since(now).unwrap_or_default())
    }
}

/// A duration as people write it, without parts of a second: `29m30s`.
pub(crate) fn duration_text(time: Duration) -> String {
    let seconds = Duration::from_secs(time.as_secs());
    GoDuration::try_from(seconds).map_or_else(|_| format!("{seconds:?}"), |seconds| seconds.to_string())
}

impl Entry {
    fn target(&self) -> &MaintenanceTarget {
        match self {
            Entry::Window(window) => &window.target,
            Entry::Except(target) => target,
        }
    }

    fn into_window(self) -> Option<Window> {
        match self {
            Entry::Window(window) => Some(window),
            Entry::Except(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn path(text: &str) -> MaintenanceTarget {
        MaintenanceTarget::Path(text.parse().unwrap())
    }

    fn window(target: MaintenanceTarget, seconds: Option<u64>) -> Window {
        let until = seconds.map(|seconds| NOW + Duration::from_secs(seconds));
        Window { target, reason: None, since: NOW, until }
    }

    fn shown(windows: &Windows) -> Vec<String> {
        let show = |entry: &Entry| match entry {
            Entry::Window(window) => format!("+{}", window.target),
            Entry::Except(target) => format!("-{target}"),
        };
        windows.entries().iter().map(show).collect()
    }

    #[test]
    fn an_exit_is_an_exception_to_what_is_wider_and_else_an_end() {
        let mut windows = Windows::default();
        windows.enter(window(path("/admin"), None));
        windows.exit(&path("/admin"));
        assert_eq!(windows, Windows::default());

        windows.enter(window(MaintenanceTarget::All, None));
        assert!(windows.covers_everything());
        windows.exit(&path("/admin"));
        assert!(!windows.covers_everything());
        assert_eq!(shown(&windows), ["+ALL", "-/admin"]);
        windows.enter(window(path("/admin"), None));
        assert!(windows.covers_everything());
        windows.exit(&MaintenanceTarget::All);
        assert_eq!(windows, Windows::default());
    }

    #[test]
    fn a_window_ends_when_its_time_has_come_and_a_wider_one_goes_on() {
        let mut windows = Windows::default();
        windows.enter(window(MaintenanceTarget::All, Some(60)));
        windows.enter(window(path("/admin"), Some(30)));
        assert_eq!(windows.next_end(), Some(NOW + Duration::from_secs(30)));
        assert_eq!(windows.expire(NOW + Duration::from_secs(29)), []);
        assert_eq!(windows.expire(NOW + Duration::from_secs(30)).len(), 1);
        assert_eq!(shown(&windows), ["+ALL"]);
        windows.exit(&path("/admin"));
        assert_eq!(windows.expire(NOW + Duration::from_secs(60)).len(), 1);
        assert_eq!((shown(&windows), windows.next_end()), (vec![], None));
    }

    #[test]
    fn what_has_ended_while_nobody_ran_is_told_as_an_end() {
        let entries = vec![
            Entry::Window(window(path("/admin"), Some(30))),
            Entry::Window(window(path("/api"), Some(90))),
        ];
        let mut windows = Windows::restored(entries, NOW + Duration::from_secs(60));
        assert_eq!(shown(&windows), ["-/admin", "+/api"]);
        windows.exit(&path("/api"));
        assert_eq!(shown(&windows), Vec::<String>::new());
    }

    /// What a session is asked, change by change.
    struct Asked {
        windows: Windows,
        asked_for_targets: bool,
    }

    impl Asked {
        fn after(&mut self, change: Change) -> Vec<String> {
            let before = self.windows.clone();
            let ended = self.windows.apply(change.clone());
            let requests =
                self.windows.requests_since(&before, &change, &ended, self.asked_for_targets, None);
            self.asked_for_targets = !self.windows.entries().is_empty()
                && (self.asked_for_targets || !self.windows.covers_everything());
            let show = |request: &MaintenanceRequest| match request.action {
                MaintenanceAction::Enter(_) => format!("+{}", request.target),
                MaintenanceAction::Exit => format!("-{}", request.target),
            };
            requests.iter().map(show).collect()
        }
    }

    #[test]
    fn a_session_is_asked_for_targets_only_where_the_whole_does_not_say_it() {
        let mut asked = Asked { windows: Windows::default(), asked_for_targets: false };
        let enter = |target, seconds| Change::Enter(window(target, seconds));
        let none: [&str; 0] = [];
        assert_eq!(asked.after(enter(MaintenanceTarget::All, None)), none);
        assert_eq!(asked.after(Change::Exit(MaintenanceTarget::All)), none);

        assert_eq!(asked.after(enter(path("/admin"), Some(60))), ["+/admin"]);
        assert_eq!(asked.after(enter(path("/api"), None)), ["+/api"]);
        assert_eq!(asked.after(Change::Expire(NOW)), none);
        let later = Change::Expire(NOW + Duration::from_secs(60));
        assert_eq!(asked.after(later), ["-/admin", "+/api"]);
        assert_eq!(asked.after(Change::Exit(path("/api"))), ["-/api"]);

        assert_eq!(asked.after(enter(MaintenanceTarget::All, None)), none);
        assert_eq!(asked.after(Change::Exit(path("/admin"))), ["+ALL", "-/admin"]);
        assert_eq!(asked.after(enter(path("/admin"), None)), none, "it covers everything again");
        assert_eq!(asked.after(Change::Exit(MaintenanceTarget::All)), ["-ALL"]);
        assert_eq!(asked.after(Change::Exit(MaintenanceTarget::All)), none);
    }

    #[test]
    fn a_whole_that_ends_by_itself_uncovers_what_was_entered_in_it() {
        let mut asked = Asked { windows: Windows::default(), asked_for_targets: false };
        asked.after(Change::Enter(window(MaintenanceTarget::All, Some(60))));
        asked.after(Change::Enter(window(path("/admin"), None)));
        assert_eq!(asked.after(Change::Expire(NOW + Duration::from_secs(60))), ["+/admin"]);
    }

    #[test]
    fn windows_cannot_grow_without_bound() {
        let mut windows = Windows::default();
        for number in 0..2 * MAX_WINDOWS {
            windows.enter(window(path(&format!("/{number}")), None));
            windows.exit(&path(&format!("/x{number}")));
        }
        assert_eq!(windows.entries().len(), MAX_WINDOWS);
    }
}
