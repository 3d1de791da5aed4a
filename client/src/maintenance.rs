//! Which routes are to be in maintenance: requests in their order, of which the last that fits a route counts.
//!
//! Pure, and without knowledge of sessions and ids: the session remembers what the registry
//! was told and has confirmed.

use std::time::{Duration, Instant};

use super::event::{Event, Mode};
use super::intent::{
    MAX_REQUESTS, MaintenanceAction as Action, MaintenanceTarget, Route, RouteKey, Visibility,
};
use super::status::MaintenanceProgress;
use crate::protocol::BackendUrl;

/// All requests that still count.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests {
    /// The one that follows from [`Visibility`]; while it enters, no other counts.
    whole: Option<Request>,
    /// The others, oldest first; no two for the same target.
    named: Vec<Request>,
}

#[derive(Debug, Clone)]
struct Request {
    target: MaintenanceTarget,
    action: Action,
    since: Instant,
    reported: Option<Mode>,
}

/// How the registry stands towards one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmation {
    /// It has confirmed everything that the request is about.
    Confirmed,
    /// It has not, yet.
    Pending,
    /// It never will.
    Impossible,
}

/// After this long without the registry's word a request counts as carried out locally.
pub(super) const LOCAL_AFTER: Duration = Duration::from_secs(30);

impl Requests {
    /// What [`Visibility`] says: maintenance of everything, or no longer.
    pub(super) fn set_all(&mut self, page: Option<Option<BackendUrl>>, now: Instant) -> Option<Event> {
        let entered = matches!(&self.whole, Some(Request { action: Action::Enter(_), .. }));
        let action = match page {
            Some(page) => Action::Enter(page),
            None if entered => Action::Exit,
            None => return None,
        };
        if let Some(whole) = &mut self.whole
            && let (Action::Enter(old), Action::Enter(new)) = (&mut whole.action, &action)
        {
            // The same maintenance with another page.
            *old = new.clone();
            return None;
        }
        let request = Request { target: MaintenanceTarget::All, action, since: now, reported: None };
        let event = request.asked();
        self.whole = Some(request);
        Some(event)
    }

    /// One more request; what it overrides is forgotten.
    pub(super) fn push(&mut self, target: MaintenanceTarget, action: Action, now: Instant) -> Event {
        match &target {
            MaintenanceTarget::All => self.named.clear(),
            target => self.named.retain(|older| older.target != *target),
        }
        if self.named.len() >= MAX_REQUESTS {
            self.named.remove(0);
        }
        let request = Request { target, action, since: now, reported: None };
        let event = request.asked();
        self.named.push(request);
        event
    }

    /// What was asked for shows another page from now on: the application has moved, and the page with it.
    pub(super) fn turn_page(&mut self, target: &MaintenanceTarget, new: &Action) {
        let asked = self.named.iter_mut().find(|request| request.target == *target);
        if let (Some(Request { action: Action::Enter(page), .. }), Action::Enter(new)) = (asked, new) {
            page.clone_from(new);
        }
    }

    /// The page that is wanted for a route; `None`: no maintenance.
    pub(super) fn page(&self, key: &RouteKey, route: &Route) -> Option<&Option<BackendUrl>> {
        let counting = self.counting(key, route)?;
        match &counting.action {
            Action::Enter(page) => Some(page),
            Action::Exit => None,
        }
    }

    /// The targets of which maintenance is wanted.
    pub(super) fn entered(&self) -> impl Iterator<Item = &MaintenanceTarget> {
        let all = self.whole.iter().chain(&self.named);
        all.filter(|request| matches!(request.action, Action::Enter(_))).map(|request| &request.target)
    }

    /// What has become of each request.
    pub(super) fn progress(&self) -> impl Iterator<Item = MaintenanceProgress> {
        self.iter().map(|request| MaintenanceProgress {
            target: request.target.clone(),
            entering: matches!(request.action, Action::Enter(_)),
            mode: request.reported,
        })
    }

    /// Returns an event for each request whose state has changed. `confirmation` is called with a filter for the routes that it is
    /// about, and whether they are to be in maintenance.
    pub(super) fn report_maintenance(
        &mut self,
        now: Instant,
        confirmation: impl Fn(&dyn Fn(&RouteKey, &Route) -> bool, bool) -> Confirmation,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let verdicts: Vec<_> = self
            .iter()
            .map(|request| {
                let enters = matches!(request.action, Action::Enter(_));
                let about = |key: &RouteKey, route: &Route| match enters {
                    true => self.counting(key, route).is_some_and(|other| std::ptr::eq(other, request)),
                    false => request.target.fits(key, route),
                };
                confirmation(&about, enters)
            })
            .collect();
        for (request, confirmation) in self.whole.iter_mut().chain(&mut self.named).zip(verdicts) {
            events.extend(request.report(confirmation, now));
        }
        self.whole.take_if(|whole| whole.is_over());
        // One that left counts for as long as it overrides one that entered.
        while self.named.first().is_some_and(Request::is_over) {
            self.named.remove(0);
        }
        events
    }

    /// When [`Requests::report_maintenance`] returns events although nothing has happened: a confirmation is overdue.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.iter()
            .filter(|request| request.reported.is_none())
            .map(|request| request.since + LOCAL_AFTER)
            .min()
    }

    fn iter(&self) -> impl Iterator<Item = &Request> {
        self.whole.iter().chain(&self.named)
    }

    fn counting(&self, key: &RouteKey, route: &Route) -> Option<&Request> {
        let whole = self.whole.as_ref().filter(|whole| matches!(whole.action, Action::Enter(_)));
        whole.or_else(|| self.named.iter().rev().find(|request| request.target.fits(key, route)))
    }
}

impl Request {
    fn asked(&self) -> Event {
        let target = self.target.clone();
        match self.action {
            Action::Enter(_) => Event::MaintenanceRequested { target },
            Action::Exit => Event::MaintenanceExitRequested { target },
        }
    }

    fn report(&mut self, confirmation: Confirmation, now: Instant) -> Option<Event> {
        let overdue = now.saturating_duration_since(self.since) >= LOCAL_AFTER;
        let mode = match confirmation {
            Confirmation::Confirmed => Mode::Proxy,
            Confirmation::Impossible => Mode::Local,
            Confirmation::Pending if overdue => Mode::Local,
            Confirmation::Pending => return None,
        };
        if self.reported == Some(mode) || self.reported == Some(Mode::Proxy) {
            return None;
        }
        self.reported = Some(mode);
        let target = self.target.clone();
        Some(match self.action {
            Action::Enter(_) => Event::MaintenanceEntered { target, mode },
            Action::Exit => Event::MaintenanceExited { target, mode },
        })
    }

    fn is_over(&self) -> bool {
        self.action == Action::Exit && self.reported == Some(Mode::Proxy)
    }
}

/// Whether `visibility` means the page on everything: a reference server knows no drain without an outage, so
/// what is drained elsewhere is in maintenance there, if there is a page ([SEMANTICS section 6](crate::spec::semantics#6-drain-and-hold)).
pub(super) fn covers_all_routes(visibility: Visibility, has_page: bool, is_reference: bool) -> bool {
    match visibility {
        Visibility::Maintenance => true,
        Visibility::Draining => has_page && is_reference,
        Visibility::Absent | Visibility::Live => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Domains;

    fn route(domain: &str, path: &str) -> Route {
        let domains = Domains::new([domain.parse().unwrap()]).unwrap();
        Route::new(domains, path.parse().unwrap(), "http://h:1".parse().unwrap())
    }

    fn path(text: &str) -> MaintenanceTarget {
        MaintenanceTarget::Path(text.parse().unwrap())
    }

    #[test]
    fn of_overlapping_requests_the_last_counts_for_each_route() {
        let now = Instant::now();
        let (mut requests, page) = (Requests::default(), "http://h:2/".parse::<BackendUrl>().unwrap());
        let (root, admin) = (("main".into(), route("a.de", "/")), ("admin".into(), route("a.de", "/admin")));
        requests.push(MaintenanceTarget::All, Action::Enter(Some(page.clone())), now);
        requests.push(path("/admin"), Action::Exit, now);
        assert_eq!(requests.page(&root.0, &root.1), Some(&Some(page)));
        assert_eq!(requests.page(&admin.0, &admin.1), None);

        requests.push(path("/admin"), Action::Enter(None), now);
        assert_eq!(requests.page(&admin.0, &admin.1), Some(&None));
        requests.push(MaintenanceTarget::All, Action::Exit, now);
        assert_eq!((requests.page(&root.0, &root.1), requests.page(&admin.0, &admin.1)), (None, None));
    }

    #[test]
    fn what_the_registry_does_not_confirm_in_time_holds_locally_and_its_word_may_still_come() {
        let now = Instant::now();
        let mut requests = Requests::default();
        requests.push(MaintenanceTarget::All, Action::Enter(None), now);
        assert!(requests.report_maintenance(now, |_, _| Confirmation::Pending).is_empty());
        assert_eq!(requests.deadline(), Some(now + LOCAL_AFTER));
        let names = |events: Vec<Event>| events.iter().map(Event::name).collect::<Vec<_>>();
        let later = now + LOCAL_AFTER;
        assert_eq!(
            names(requests.report_maintenance(later, |_, _| Confirmation::Pending)),
            ["MAINT_LOCAL_ENTERED"]
        );
        assert!(
            requests.report_maintenance(later, |_, _| Confirmation::Pending).is_empty()
                && requests.deadline().is_none()
        );
        assert_eq!(
            names(requests.report_maintenance(later, |_, _| Confirmation::Confirmed)),
            ["MAINT_PROXY_ENTERED"]
        );
        assert!(requests.report_maintenance(later, |_, _| Confirmation::Confirmed).is_empty());
    }

    #[test]
    fn what_was_left_and_confirmed_is_forgotten() {
        let now = Instant::now();
        let mut requests = Requests::default();
        requests.push(path("/"), Action::Enter(None), now);
        requests.push(path("/"), Action::Exit, now);
        assert_eq!(requests.report_maintenance(now, |_, _| Confirmation::Confirmed).len(), 1);
        assert!(requests.named.is_empty());
    }

    #[test]
    fn targets_cannot_grow_without_bound() {
        let (now, mut requests) = (Instant::now(), Requests::default());
        for number in 0..2 * MAX_REQUESTS {
            requests.push(MaintenanceTarget::Route(number.to_string().into()), Action::Enter(None), now);
        }
        assert_eq!(requests.named.len(), MAX_REQUESTS);
    }
}
