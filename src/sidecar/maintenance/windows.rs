//! What an operator has asked to be in maintenance, why, and until when. Pure: it is told the time.
//!
//! Of several windows about a route the last counts, and an exit is an exception to what was entered before it.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::client::{MaintenanceAction, MaintenanceRequest, MaintenanceTarget};
use crate::protocol::{BackendUrl, GoDuration};

/// A maintenance that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) target: MaintenanceTarget,
    /// For people; shown on the page.
    pub(crate) reason: Option<String>,
    pub(crate) since: SystemTime,
    /// It ends by itself.
    pub(crate) until: Option<SystemTime>,
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Window(Window),
    /// Of these routes no earlier window counts.
    Except(MaintenanceTarget),
}

/// All of them, oldest first; no two for the same target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Windows {
    entries: Vec<Entry>,
}

/// What becomes of them.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// One more window, in the place of one for the same target.
    Enter(Window),
    /// No maintenance of this any more; of `All`: of nothing.
    Exit(MaintenanceTarget),
    /// What is over at this time ends.
    Expire(SystemTime),
}

/// How many there may be; the oldest goes.
pub(super) const MAX_WINDOWS: usize = 64;

impl Windows {
    /// What a former process has left. A window that has ended meanwhile is an exception, so that a registry
    /// that has kept it is told so.
    pub(super) fn restored(entries: Vec<Entry>, now: SystemTime) -> Windows {
        let ended = |entry: Entry| match entry {
            Entry::Window(window) if window.is_over(now) => Entry::Except(window.target),
            other => other,
        };
        Windows { entries: entries.into_iter().take(MAX_WINDOWS).map(ended).collect() }
    }

    /// Makes a change. The windows that ended by themselves are returned.
    pub(super) fn apply(&mut self, change: Change) -> Vec<Window> {
        match change {
            Change::Enter(window) => self.enter(window),
            Change::Exit(target) => self.exit(&target),
            Change::Expire(now) => return self.expire(now),
        }
        Vec::new()
    }

    /// What a session is to be asked after `change` has made this of `before` and `ended` some. Where all is in
    /// maintenance that is wanted of the session as a whole, and no target counts; `named`: it has been asked
    /// for targets at some time since it was last told that nothing is in maintenance.
    pub(super) fn requests_since(
        &self,
        before: &Windows,
        change: &Change,
        ended: &[Window],
        named: bool,
        page: Option<&BackendUrl>,
    ) -> Vec<MaintenanceRequest> {
        let exit = |target| MaintenanceRequest { target, action: MaintenanceAction::Exit };
        let enter = |target| MaintenanceRequest { target, action: MaintenanceAction::Enter(page.cloned()) };
        let exit_all = named.then_some(MaintenanceTarget::All).map(exit);
        match change {
            _ if self.is_whole() => Vec::new(),
            Change::Exit(MaintenanceTarget::All) => exit_all.into_iter().collect(),
            Change::Enter(window) if !before.is_whole() => vec![enter(window.target.clone())],
            Change::Exit(target) if !before.is_whole() => vec![exit(target.clone())],
            Change::Expire(_) if ended.is_empty() => Vec::new(),
            // What ended uncovers what is older: everything in its order again.
            Change::Expire(_) if !before.is_whole() => {
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

    /// When [`Change::Expire`] ends something.
    pub(super) fn next_end(&self) -> Option<SystemTime> {
        self.windows().filter_map(|window| window.until).min()
    }

    /// Everything is in maintenance, without exception.
    pub(super) fn is_whole(&self) -> bool {
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

    /// The same for the control socket: what is in maintenance, or (`except`) is not, why, and for how long.
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

    /// The same as requests to a client, whose maintenance page is `page`.
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

    /// An exception to nothing is none.
    fn drop_idle_exceptions(&mut self) {
        let idle = self.entries.iter().take_while(|entry| matches!(entry, Entry::Except(_))).count();
        self.entries.drain(..idle);
    }
}

impl Window {
    fn is_over(&self, now: SystemTime) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// How long it goes on; `None`: until somebody ends it.
    pub(crate) fn remaining(&self, now: SystemTime) -> Option<Duration> {
        self.until.map(|until| until.duration_since(now).unwrap_or_default())
    }
}

/// Whole seconds as people write them: `29m30s`.
pub(crate) fn duration_text(time: Duration) -> String {
    let whole = Duration::from_secs(time.as_secs());
    GoDuration::try_from(whole).map_or_else(|_| format!("{whole:?}"), |whole| whole.to_string())
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
        assert!(windows.is_whole());
        windows.exit(&path("/admin"));
        assert!(!windows.is_whole());
        assert_eq!(shown(&windows), ["+ALL", "-/admin"]);
        windows.enter(window(path("/admin"), None));
        assert!(windows.is_whole());
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
        named: bool,
    }

    impl Asked {
        fn after(&mut self, change: Change) -> Vec<String> {
            let before = self.windows.clone();
            let ended = self.windows.apply(change.clone());
            let requests = self.windows.requests_since(&before, &change, &ended, self.named, None);
            self.named = !self.windows.entries().is_empty() && (self.named || !self.windows.is_whole());
            let show = |request: &MaintenanceRequest| match request.action {
                MaintenanceAction::Enter(_) => format!("+{}", request.target),
                MaintenanceAction::Exit => format!("-{}", request.target),
            };
            requests.iter().map(show).collect()
        }
    }

    #[test]
    fn a_session_is_asked_for_targets_only_where_the_whole_does_not_say_it() {
        let mut asked = Asked { windows: Windows::default(), named: false };
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
        assert_eq!(asked.after(enter(path("/admin"), None)), none, "it is whole again");
        assert_eq!(asked.after(Change::Exit(MaintenanceTarget::All)), ["-ALL"]);
        assert_eq!(asked.after(Change::Exit(MaintenanceTarget::All)), none);
    }

    #[test]
    fn a_whole_that_ends_by_itself_uncovers_what_was_entered_in_it() {
        let mut asked = Asked { windows: Windows::default(), named: false };
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
