//! One story, told to the model and to the core side by side.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use registry_sidecar::server::routing::{Probe, Table, normalise};
use serde_json::Value;

use super::compare::{self, Clock};
use super::coverage::Coverage;
use super::model::{ClaimView, Model, Out, Rules, Store, Watched};
use super::steps::{Answer, HOSTS, PATHS, PEERS, PLACES, Step, StoreMode};
use super::world::{self, Ids, Said};

/// The real registry, however it is reached.
pub(crate) trait Core {
    /// The address of this number among those that peers come from.
    fn peer(&self, index: usize) -> IpAddr;
    fn clock(&self) -> Clock;
    /// Whether a BACKEND_TEST is over at once, with a status of 204.
    fn ends_tests_itself(&self) -> bool;
    fn open(&mut self, conn: usize, peer: IpAddr);
    fn close(&mut self, conn: usize);
    fn line(&mut self, conn: usize, line: &str);
    fn probed(&mut self, probe: &Probe, answer: Answer);
    fn set_store(&mut self, mode: StoreMode);
    fn store_answers(&mut self, holds: bool);
    /// Ends the oldest BACKEND_TEST, and says the how-manieth of all it was.
    fn test_ends(&mut self, result: Result<u16, &str>) -> Option<u64>;
    fn advance(&mut self, to_ms: u64);
    fn stop(&mut self);
    /// What came out; `foreseen` says for what it is worth waiting.
    fn take_said(&mut self, foreseen: &[Out]) -> Vec<Said>;
    fn claims(&self) -> Vec<ClaimView>;
    fn table(&self) -> Arc<Table>;
    fn watched(&self) -> Vec<Probe>;
    /// `None`: it does not tell.
    fn session_count(&self) -> Option<usize>;
}

pub(crate) struct Duel<C> {
    model: Model,
    core: C,
    ids: Ids,
    /// Which connection is at each place.
    places: [Option<usize>; PLACES],
    connections: usize,
    ms: u64,
    /// What was done, as it can be read.
    log: Vec<String>,
    /// Commands without a reply, by connection, in order; for the coverage.
    asked: BTreeMap<usize, Vec<String>>,
    pub coverage: Coverage,
}

impl<C: Core> Duel<C> {
    pub(crate) fn new(rules: Rules, core: C) -> Self {
        Duel {
            core,
            model: Model::new(rules),
            ids: Ids::default(),
            places: [None; PLACES],
            connections: 0,
            ms: 0,
            log: Vec::new(),
            asked: BTreeMap::new(),
            coverage: Coverage::default(),
        }
    }

    /// Goes through a story up to the step at which the two part. The error tells the story up to there.
    pub(crate) fn run(&mut self, story: &[Step]) -> Result<(), String> {
        for (at, step) in story.iter().enumerate() {
            let parted = self.step(step).and_then(|()| self.compare());
            if let Err(why) = parted {
                return Err(self.parting(at, &why));
            }
        }
        self.model.stop();
        self.core.stop();
        self.log.push("the server stops".to_owned());
        self.compare_lines().map_err(|why| self.parting(story.len(), &why))
    }

    fn parting(&self, at: usize, why: &str) -> String {
        let mut text = String::new();
        for (at, line) in self.log.iter().enumerate() {
            let _ = writeln!(text, "{:>4}  {line}", at + 1);
        }
        format!("{text}model and core part at step {}:\n   {why}", at + 1)
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        self.log.push(step.to_string());
        match step {
            Step::Connect(place, from) => {
                self.hang_up(*place);
                self.connect(*place, *from);
            }
            Step::HangUp(place) => self.hang_up(*place),
            Step::Say(place, lines) => self.say(*place, lines)?,
            Step::Wait(seconds) => {
                self.ms += seconds * 1000;
                self.model.advance(self.ms);
                self.core.advance(self.ms);
            }
            Step::Probe { which, answer, times } => self.probe(*which, *answer, *times)?,
            Step::Store(mode) => {
                self.core.set_store(*mode);
                self.model.set_store(match mode {
                    StoreMode::Holds => Store::Holds,
                    StoreMode::Refuses => Store::Refuses,
                    StoreMode::Waits => Store::Waits,
                });
            }
            Step::StoreAnswers(holds) => {
                self.model.store_answers(*holds);
                self.core.store_answers(*holds);
            }
            Step::Test(works) => {
                let result = if *works { Ok(204) } else { Err("connection refused") };
                if let Some(number) = self.core.test_ends(result) {
                    self.model.tested(number, result);
                }
            }
        }
        Ok(())
    }

    fn connect(&mut self, place: usize, from: usize) -> usize {
        self.connections += 1;
        let (conn, peer) = (self.connections, self.core.peer(from));
        self.places[place] = Some(conn);
        self.model.open(conn, peer);
        self.core.open(conn, peer);
        conn
    }

    fn hang_up(&mut self, place: usize) {
        if let Some(conn) = self.places[place].take() {
            self.model.close(conn);
            self.core.close(conn);
        }
    }

    fn say(&mut self, place: usize, lines: &[String]) -> Result<(), String> {
        let conn = match self.places[place] {
            Some(conn) => conn,
            None => self.connect(place, place % PEERS.len()),
        };
        let mut shown = Vec::new();
        for line in lines {
            let line = self.ids.resolve(line);
            shown.push(line.get(..200).unwrap_or(&line).to_owned());
            if let Some(last) = self.log.last_mut() {
                *last = format!("#{place} says {}", shown.join("\n          and "));
            }
            if !self.is_answered(&line) {
                continue;
            }
            self.asked.entry(conn).or_default().push(line.clone());
            self.model.line(conn, &line);
            self.core.line(conn, &self.ids.spell(&line));
            if self.core.ends_tests_itself() {
                self.model.all_tests_end(Ok(204));
            }
            // Ids have to be known before the next line may name them.
            self.compare_lines()?;
        }
        Ok(())
    }

    /// Empty lines and ACK never reach the core: the listener ignores them.
    fn is_answered(&self, line: &str) -> bool {
        !line.is_empty() && line != "ACK" && !line.starts_with("ACK|")
    }

    fn probe(&mut self, which: usize, answer: Answer, times: usize) -> Result<(), String> {
        let mut all: Vec<(Watched, _)> =
            self.core.watched().into_iter().map(|probe| (world::watched(&probe), probe)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        if all.is_empty() {
            return Ok(());
        }
        let (shown, probe) = &all[which % all.len()];
        if let Some(last) = self.log.last_mut() {
            *last = format!("{shown:?} {answer:?} {times} times");
        }
        for _ in 0..times {
            self.model.probed(shown, answer);
            self.core.probed(probe, answer);
            self.compare_lines()?;
        }
        Ok(())
    }

    /// Everything that can be seen of the two.
    fn compare(&mut self) -> Result<(), String> {
        self.compare_lines()?;
        compare_tables(self.model.table(), self.core.claims(), self.core.clock())?;
        let mut watched: Vec<Watched> = self.core.watched().iter().map(world::watched).collect();
        watched.sort();
        watched.dedup();
        let foreseen = self.model.watched();
        if watched != foreseen {
            return Err(format!("the model asks {foreseen:#?}\n   the core asks {watched:#?}"));
        }
        let (model, core) = (self.model.session_count(), self.core.session_count());
        if core.is_some_and(|core| core != model) {
            return Err(format!("the model has {model} sessions, the core {core:?}"));
        }
        self.compare_ways()
    }

    fn compare_lines(&mut self) -> Result<(), String> {
        let foreseen = self.model.take_out();
        let said = self.core.take_said(&foreseen);
        let of = |out: &Out| match out {
            Out::Line(conn, _) | Out::Close(conn) | Out::Event(conn, ..) => *conn,
        };
        let by = |said: &Said| match said {
            Said::Line(conn, _) | Said::Close(conn) => *conn,
        };
        let mut conns: Vec<usize> = foreseen.iter().map(of).chain(said.iter().map(by)).collect();
        conns.sort_unstable();
        conns.dedup();
        for conn in conns {
            self.coverage.events(compare_events(&foreseen, &said, conn)?);
            let mut wants = foreseen.iter().filter(|out| of(out) == conn && !matches!(out, Out::Event(..)));
            let mut lines = said.iter().filter(|said| by(said) == conn && event(said).is_none());
            loop {
                match (wants.next(), lines.next()) {
                    (None, None) => break,
                    (Some(Out::Line(_, want)), Some(Said::Line(_, got))) => {
                        compare::line(want, got, &mut self.ids, self.core.clock())?;
                        self.coverage.reply(self.asked.entry(conn).or_default(), got);
                    }
                    (Some(Out::Close(_)), Some(Said::Close(_))) => {
                        for place in &mut self.places {
                            *place = place.filter(|at| *at != conn);
                        }
                    }
                    (want, got) => {
                        return Err(format!(
                            "connection {conn}: the model has {want:?}\n   the core has {got:?}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Which claim a request is for.
    fn compare_ways(&self) -> Result<(), String> {
        let table = self.core.table();
        for host in HOSTS {
            for path in PATHS {
                let normal = normalise(path).expect("these are plain");
                let core = table.find(host, &normal);
                let core = core.map(|claim| (claim.domain.to_string(), claim.path.to_string()));
                let model = self.model.find(host, path);
                if model != core {
                    return Err(format!("{host}{path}: the model finds {model:?}, the core {core:?}"));
                }
            }
        }
        Ok(())
    }
}

/// The two parts of an event, if this is one.
fn event(said: &Said) -> Option<(String, Value)> {
    let Said::Line(_, line) = said else { return None };
    let (kind, body) = line.strip_prefix("EVENT|")?.split_once('|')?;
    Some((format!("EVENT|{kind}"), serde_json::from_str(body).ok()?))
}

/// The same events, in any order: they may come between any two replies.
fn compare_events(foreseen: &[Out], said: &[Said], at: usize) -> Result<usize, String> {
    let mut wants: Vec<String> = Vec::new();
    for out in foreseen {
        if let Out::Event(conn, kind, body) = out
            && *conn == at
        {
            wants.push(format!("{kind}|{body}"));
        }
    }
    let mut got: Vec<String> = Vec::new();
    for said in said.iter().filter(|said| matches!(said, Said::Line(conn, _) if *conn == at)) {
        got.extend(event(said).map(|(kind, body)| format!("{kind}|{body}")));
    }
    wants.sort();
    got.sort();
    if wants == got {
        Ok(got.len())
    } else {
        Err(format!("events: the model has {wants:#?}\n   the core has {got:#?}"))
    }
}

fn compare_tables(model: Vec<ClaimView>, core: Vec<ClaimView>, clock: Clock) -> Result<(), String> {
    let virtual_time = clock.tolerance_ms <= compare::ROUNDING;
    let plain = |mut views: Vec<ClaimView>| {
        for view in &mut views {
            if !virtual_time {
                view.held_until = view.held_until.map(|_| 0);
                view.members.iter_mut().for_each(|m| m.drain = m.drain.map(|_| (0, 0)));
            }
            view.members.sort_by_key(|member| format!("{member:?}"));
        }
        views.sort_by(|a, b| (&a.domain, &a.path).cmp(&(&b.domain, &b.path)));
        views
    };
    let (model, core) = (plain(model), plain(core));
    if model == core {
        return Ok(());
    }
    let mut text = String::new();
    for (who, own, others) in [("model", &model, &core), ("core", &core, &model)] {
        for view in own.iter().filter(|view| !others.contains(view)) {
            let _ = writeln!(text, "\n   only the {who} has {view:#?}");
        }
    }
    Err(text)
}
