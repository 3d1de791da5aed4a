//! Plays scripts against the machine.

use std::net::{Ipv4Addr, SocketAddr};

use super::super::*;
use crate::protocol::{Domains, PathPrefix};

pub(super) struct Story {
    pub(super) session: Session,
    pub(super) now: Instant,
    pub(super) last_event: Option<Event>,
    pub(super) answered: Vec<(u64, Result<Reply, CallError>)>,
    sent: VecDeque<String>,
    events: VecDeque<Event>,
    dials: usize,
    hangups: usize,
}

pub(super) const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 81);

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn route(domain: &str, backend: &str) -> Route {
    let domains = Domains::new([domain.parse().unwrap()]).unwrap();
    Route::new(domains, PathPrefix::root(), backend.parse().unwrap())
}

pub(super) fn routes(routes: &[(&str, Route)]) -> Routes {
    routes.iter().map(|(key, route)| (RouteKey::from(*key), route.clone())).collect()
}

pub(super) fn intent(wanted: &[(&str, Route)]) -> Intent {
    let intent = Intent::new("web".parse().unwrap(), "web-1".parse().unwrap());
    Intent { routes: routes(wanted), ..intent }
}

/// What the registry sends, with the two kinds of SESSION_OK abbreviated.
pub(super) fn line(text: &str) -> ServerLine {
    let text = match text.split_once('|') {
        Some(("INFO", revision)) => {
            format!(
                r#"SESSION_OK|{{"revision":{revision},"server":"registry-server/0.1.0","capabilities":["drain"]}}"#
            )
        }
        _ if text == "REFERENCE" => r#"SESSION_OK|{"routes_active":0}"#.to_owned(),
        _ => text.to_owned(),
    };
    ServerLine::parse(&text).unwrap()
}

impl Story {
    pub(super) fn new(intent: Intent) -> Self {
        Story::with(intent, |_| {})
    }

    pub(super) fn with(intent: Intent, change: impl FnOnce(&mut Timing)) -> Self {
        let mut timing = Timing {
            keepalive_interval: secs(30),
            request_timeout: secs(10),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: secs(10),
            route_watch: Some(secs(30)),
        };
        change(&mut timing);
        let now = Instant::now();
        let mut session = Session::new("proxy:81".into(), timing, intent, 42, now);
        session.tick(now);
        let (sent, events) = (VecDeque::new(), VecDeque::new());
        let mut story = Story {
            session,
            now,
            last_event: None,
            answered: Vec::new(),
            sent,
            events,
            dials: 0,
            hangups: 0,
        };
        story.collect();
        story
    }

    pub(super) fn want(&mut self, wanted: &[(&str, Route)]) {
        let change = self.session.intent + 1;
        let (visibility, page) = (self.session.visibility, self.session.page.clone());
        let goal = Goal { change, routes: routes(wanted), visibility, page, ..intent(&[]).goal() };
        self.session.want(goal, self.now);
    }

    pub(super) fn show(&mut self, visibility: Visibility) {
        let goal = Goal {
            change: self.session.intent + 1,
            routes: self.session.wanted.clone(),
            visibility,
            page: self.session.page.clone(),
            ..intent(&[]).goal()
        };
        self.session.want(goal, self.now);
    }

    /// The next line that no script has consumed.
    pub(super) fn take_sent(&mut self) -> Option<String> {
        self.collect();
        self.sent.pop_front()
    }

    /// The registry sends this line.
    pub(super) fn say(&mut self, text: &str) {
        self.session.receive(Received::Line(line(text)), self.now);
    }

    /// Time passes.
    pub(super) fn wait(&mut self, time: Duration) {
        self.pass(time);
    }

    /// The names of the events that no script has consumed.
    pub(super) fn events(&mut self) -> Vec<&'static str> {
        self.collect();
        self.events.drain(..).map(|event| event.name()).collect()
    }

    pub(super) fn play(&mut self, script: &str) {
        self.collect();
        for step in script.lines().map(str::trim).filter(|step| !step.is_empty()) {
            self.step(step);
            self.collect();
        }
        assert!(self.sent.is_empty(), "sent, and not in the script: {:?}\nafter: {script}", self.sent);
    }

    fn step(&mut self, step: &str) {
        let (kind, text) = step.split_once(' ').unwrap();
        match (kind, text) {
            (">", expected) => assert_eq!(self.sent.pop_front().as_deref(), Some(expected), "at: {step}"),
            ("<", text) => self.session.receive(Received::Line(line(text)), self.now),
            ("!", name) => loop {
                let event = self.events.pop_front().unwrap_or_else(|| panic!("no event {name}"));
                if event.name() == name {
                    self.last_event = Some(event);
                    break;
                }
            },
            ("+", time) => self.pass(time.parse::<crate::protocol::GoDuration>().unwrap().get()),
            ("~", "dial") => {
                assert_eq!(std::mem::take(&mut self.dials), 1, "dials");
                self.session.link_up(PEER, self.now);
            }
            ("~", "refused") => {
                assert_eq!(std::mem::take(&mut self.dials), 1, "dials");
                self.session.link_failed(ConnectError::Refused { address: PEER }, self.now);
            }
            ("~", "eof") => self.session.link_down(Cause::Closed, self.now),
            ("~", "hangup") => assert!(std::mem::take(&mut self.hangups) > 0, "the connection is kept"),
            _ => panic!("what is {step:?}?"),
        }
    }

    /// Time passes, and every timer on the way fires when it is due, no more often than it must.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut ticks = 0;
        while let Some(due) = self.session.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.session.tick(self.now);
            self.collect();
            ticks += 1;
            assert!(ticks < 100, "a timer that does not advance: {:?}", self.session.state);
        }
        self.now = end;
    }

    /// Goes to the next timer, at which every attempt to connect fails, and remembers what was told of
    /// maintenance.
    pub(super) fn pass_refused(&mut self) {
        self.now = self.session.deadline().unwrap();
        self.session.tick(self.now);
        self.collect();
        if std::mem::take(&mut self.dials) > 0 {
            self.session.link_failed(ConnectError::Refused { address: PEER }, self.now);
        }
        self.collect();
        self.last_event =
            self.events.drain(..).find(|event| matches!(event, Event::MaintenanceEntered { .. }));
    }

    fn collect(&mut self) {
        for effect in self.session.take_effects() {
            match effect {
                Effect::Dial { .. } => self.dials += 1,
                Effect::Send(command) => self.sent.push_back(command.encode()),
                Effect::Hangup => self.hangups += 1,
                Effect::Event(event) => self.events.push_back(event),
                Effect::Answer(Ticket(ticket), result) => self.answered.push((ticket, result)),
            }
        }
    }
}
