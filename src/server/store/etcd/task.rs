//! Carries out what the pure parts decide: one task that owns the image, the leadership and the commits.

mod commits;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use registry_nodes::kv::{Answer, Fault, Kv, Transaction};
use registry_nodes::{ConfigError, Error, Node, Registration, Registry};
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

use crate::server::registry::persist::StoreChange;
use crate::server::registry::{StoreRevision, Term, Tx};

use super::clock;
use super::copy::Copy;
use super::housekeeping;
use super::image::{Image, Leader};
use super::layout::{Key, Layout};
use super::leadership::{Call, Event, Leadership, Reply, Standing, Time};
use super::leadership_rpc::LeadershipRpc;
use super::presence::{self, RELAY, SETTINGS};
use super::reader::{News, Reader};
use super::values::{LeaderValue, encode};
use super::{Feed, LeaderInfo, Said, Settings, Status};
use commits::{Committing, answer_of};

/// How many messages of the reader wait.
const NEWS: usize = 16;
/// How much housekeeping waits at most before a server says again that it is alive.
const MAX_HOUSEKEEPING: usize = 50;
/// How long the leadership and the presence may take to be given up. Then they go with their leases.
const LEAVE: Duration = Duration::from_secs(3);

/// The task's ends of the channels that [`super::start`] makes.
pub(super) struct Ends {
    pub(super) queue: mpsc::UnboundedReceiver<(Tx, StoreChange)>,
    pub(super) say: mpsc::UnboundedSender<Said>,
    pub(super) turned: mpsc::UnboundedReceiver<()>,
    pub(super) stops: mpsc::UnboundedReceiver<()>,
    pub(super) tell: mpsc::Sender<Feed>,
    pub(super) show: watch::Sender<Status>,
    pub(super) proven_until: Arc<AtomicU64>,
}

/// What the registry was told last.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Leads(Term),
    Follows(Option<LeaderInfo>),
}

type Asked = Pin<Box<dyn Future<Output = Reply> + Send>>;
type Sent = Pin<Box<dyn Future<Output = Result<Answer, Fault>> + Send>>;

pub(super) struct Task {
    settings: Settings,
    registry: Registry,
    kv: Kv,
    layout: Layout,
    ends: Ends,
    image: Option<Image>,
    leadership: Leadership,
    told: Told,
    /// Whether the registry has to be told everything that is held.
    owes_load: bool,
    waiting: VecDeque<(Tx, StoreChange)>,
    committing: Option<Committing>,
    /// How many commits of the term there were.
    made: u64,
    /// How many tries of commits of the term there were.
    attempts: u64,
    /// The revision of the last commit. The next one is planned when the image has seen it.
    last_commit: i64,
    asked: Option<Asked>,
    /// What is to be written besides, sooner or later.
    housekeeping: VecDeque<Transaction>,
    tidying: Option<Sent>,
    has_asked_for_turn: bool,
    trouble: Option<Error>,
    copy: Option<Copy>,
    /// Whether it was said that something cannot be read.
    has_unreadable: bool,
    /// Since when the store is dropped or stopped.
    stopping_since: Option<Time>,
    /// Whether everything that waited is written, and the leadership is being given up.
    is_leaving: bool,
}

impl Task {
    pub(super) fn new(settings: Settings, ends: Ends) -> Result<Task, ConfigError> {
        let base = settings.etcd.base_path.to_string();
        let layout = Layout::new(&base);
        let mut config = settings.etcd.clone();
        // The presence of a replica is the node of a service, below our own keys.
        let root = layout.root().trim_end_matches('/');
        config.base_path = root.parse().map_err(|reason| ConfigError::Endpoint { endpoint: base, reason })?;
        let registry = Registry::new(config)?;
        let kv = registry.kv();
        Ok(Task {
            leadership: Leadership::new(settings.ttl, fastrand::u64(..)),
            settings,
            registry,
            kv,
            layout,
            ends,
            image: None,
            told: Told::Follows(None),
            owes_load: true,
            waiting: VecDeque::new(),
            committing: None,
            made: 0,
            attempts: 0,
            last_commit: 0,
            asked: None,
            housekeeping: VecDeque::new(),
            tidying: None,
            has_asked_for_turn: false,
            trouble: None,
            copy: None,
            has_unreadable: false,
            stopping_since: None,
            is_leaving: false,
        })
    }

    /// Runs until the store is dropped or stopped, and the leadership given up.
    pub(super) async fn run(mut self) {
        let (tell, mut news) = mpsc::channel(NEWS);
        let reader = Reader::new(self.kv.clone(), self.layout.clone(), tell);
        let reading = tokio::spawn(reader.run(random_id()));
        self.tell(Feed::Follow(None)).await;
        self.begin_with_copy().await;
        let presence = self.register();
        let mut alive = tokio::time::interval(self.settings.alive.max(Duration::from_secs(1)));
        loop {
            self.go_on().await;
            if self.has_ended() {
                break;
            }
            let due = self.due();
            tokio::select! {
                change = self.ends.queue.recv(), if self.stopping_since.is_none() => self.queued(change),
                Some(()) = self.ends.stops.recv(), if self.stopping_since.is_none() => self.stop(),
                Some(news) = news.recv() => self.on_news(news).await,
                reply = of(&mut self.asked) => self.replied(reply),
                answer = answer_of(&mut self.committing) => self.answered(answer),
                answer = of(&mut self.tidying) => self.housekeeping_done(answer),
                Some(()) = self.ends.turned.recv() => {
                    self.has_asked_for_turn = false;
                    self.leadership.on(Event::Turned, clock::now());
                }
                _ = alive.tick() => self.say_alive(),
                () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {}
            }
        }
        reading.abort();
        if let Some(presence) = presence {
            let _ = presence.deregister(LEAVE).await;
        }
        if let Some(copy) = &mut self.copy {
            copy.close().await;
        }
    }

    /// Serves what a local file holds until etcd is read.
    async fn begin_with_copy(&mut self) {
        let Some(path) = self.settings.copy.clone() else { return };
        let (boot_id, grace) = (self.settings.boot_id.clone(), self.settings.alive * 4);
        let opened = tokio::task::spawn_blocking(move || Copy::open(path, boot_id, grace));
        // It fails when the runtime ends.
        let Ok((copy, saved)) = opened.await else { return };
        self.copy = Some(copy);
        if let Some(saved) = saved {
            info!("a local file holds {} sessions, which serve until etcd is read", saved.sessions.len());
            self.tell(Feed::Loaded(StoreRevision(0), Box::new(saved))).await;
        }
    }

    /// Keeps the copy up to date; `None`: everything is new.
    async fn keep_copy(&mut self, changes: Option<&[StoreChange]>) {
        let (Some(copy), Some(image)) = (&mut self.copy, &self.image) else { return };
        let is_kept = changes.is_some_and(|changes| changes.is_empty() || copy.change(changes));
        if !is_kept && !image.is_newer() {
            copy.replace(image.saved(&self.settings.boot_id)).await;
        }
    }

    /// In how long something is to be done that nothing but the time brings about.
    fn due(&self) -> Option<Duration> {
        let now = clock::now();
        let given_up = self.stopping_since.map(|since| since + LEAVE);
        let due = self.leadership.due(now).into_iter().chain(given_up).min()?;
        Some(due.saturating_sub(now) + Duration::from_millis(1))
    }

    /// Whether the store was stopped and nothing is left to do, or took too long.
    fn has_ended(&self) -> bool {
        let has_left = self.is_leaving && self.leadership.has_left() && self.committing.is_none();
        has_left || self.stopping_since.is_some_and(|since| clock::now() > since + LEAVE)
    }

    fn register(&self) -> Option<Registration> {
        let node = Node { name: self.settings.replica.clone(), info: self.settings.presence.clone() };
        match self.registry.register_node("replicas", node, self.settings.ttl) {
            Ok(registration) => Some(registration),
            Err(error) => {
                warn!(%error, "this replica cannot say that it is present");
                None
            }
        }
    }

    fn queued(&mut self, change: Option<(Tx, StoreChange)>) {
        match change {
            Some(change) => self.waiting.push_back(change),
            // The registry is gone.
            None => self.stop(),
        }
    }

    fn stop(&mut self) {
        self.stopping_since = Some(clock::now());
    }

    /// Does everything that can be done now.
    async fn go_on(&mut self) {
        let now = clock::now();
        let is_idle = self.waiting.is_empty() && self.committing.is_none();
        if self.stopping_since.is_some() && is_idle && !self.is_leaving {
            self.is_leaving = true;
            self.leadership.on(Event::Stop, now);
        }
        let waiting = self.committing.as_ref().map(|committing| committing.since);
        self.leadership.on(Event::Waiting(waiting), now);
        self.leadership.on(Event::Standing(self.standing()), now);
        if self.asked.is_none()
            && let Some(call) = self.leadership.call(now)
        {
            self.asked = Some(self.ask(call));
        }
        if self.leadership.wants_turn(now) && !self.has_asked_for_turn {
            self.has_asked_for_turn = self.ends.say.send(Said::Turn).is_ok();
        }
        self.announce().await;
        self.commit();
        self.do_chore();
        self.show();
    }

    /// Whether this replica may stand for the leadership.
    fn standing(&self) -> Standing {
        match &self.image {
            Some(image) if image.unreadable().is_empty() && !image.is_newer() => {
                let ours = self.settings.presence.get(SETTINGS).map(String::as_str);
                presence::standing(ours, &present(image))
            }
            _ => Standing::No,
        }
    }

    fn ask(&self, call: Call) -> Asked {
        let (kv, key, limit) = (self.kv.clone(), self.layout.key(&Key::Leader), self.leadership.limit());
        let relay = self.settings.presence.get(RELAY).cloned();
        let value = encode(&LeaderValue { replica: self.settings.replica.clone(), relay });
        let ttl = self.settings.ttl;
        Box::pin(async move { LeadershipRpc { key, value, ttl, limit }.send(&kv, call).await })
    }

    fn replied(&mut self, reply: Reply) {
        self.asked = None;
        self.leadership.on(Event::Answered(reply), clock::now());
        if let Some(error) = self.leadership.take_trouble() {
            debug!(%error, "a call about the leadership has failed");
        }
    }

    async fn on_news(&mut self, news: News) {
        match news {
            News::Loaded { revision, entries } => {
                let image = Image::load(self.layout.clone(), revision, entries);
                if image.is_newer() {
                    error!("a newer version wrote what etcd holds; this one neither serves nor changes it");
                } else {
                    info!("etcd holds {} sessions at revision {revision}", image.session_count());
                }
                self.image = Some(image);
                self.owes_load = true;
                self.keep_copy(None).await;
                self.clear_trouble().await;
            }
            News::Revised(revised) => {
                let Some(image) = &mut self.image else { return };
                let changes = image.take(&revised);
                self.keep_copy(Some(&changes)).await;
                let is_told = matches!(self.told, Told::Follows(_)) && !self.owes_load;
                if is_told && !changes.is_empty() {
                    let revision = store_revision(revised.revision);
                    self.tell(Feed::Changed(revision, changes)).await;
                }
            }
            News::Trouble(error) => {
                if self.trouble.is_none() {
                    warn!(%error, "etcd cannot be read; what was read last stays in force");
                    self.tell(Feed::Unreachable(error.clone())).await;
                }
                self.trouble = Some(error);
            }
            News::Back => self.clear_trouble().await,
        }
        self.warn_of_unreadable();
        if let Some(image) = &self.image {
            let term = image.leader().map(|leader| leader.term);
            let revision = u64::try_from(image.revision()).unwrap_or(0);
            self.leadership.on(Event::Key { term, revision }, clock::now());
        }
    }

    /// Says once that something cannot be read, until everything can.
    fn warn_of_unreadable(&mut self) {
        let unreadable = self.image.as_ref().and_then(|image| image.unreadable().iter().next());
        let is_news = unreadable.is_some() && !self.has_unreadable;
        self.has_unreadable = unreadable.is_some();
        if let Some((key, why)) = unreadable.filter(|_| is_news) {
            warn!(
                "{key} in etcd cannot be read: {why}; what was read last stays, and this replica does not lead"
            );
        }
    }

    async fn clear_trouble(&mut self) {
        if self.trouble.take().is_some() {
            info!("etcd can be read again");
            self.tell(Feed::Back).await;
        }
    }

    /// Tells the registry what it is and what is held, as soon as that is known.
    async fn announce(&mut self) {
        let Some(image) = self.image.as_ref().filter(|image| !image.is_newer()) else { return };
        let leader = image.leader();
        // Whoever leads has seen everything that was committed before its term.
        let leads = self.leadership.term().filter(|term| leader.is_some_and(|leader| leader.term == *term));
        let told = match leads {
            Some(term) => Told::Leads(term),
            None => Told::Follows(leader.and_then(|leader| self.leader_info(leader))),
        };
        let is_news = told != self.told;
        if is_news && matches!(told, Told::Follows(_)) {
            if let Told::Leads(_) = self.told {
                self.owes_load = true;
                self.reject_waiting();
            }
            self.follow(&told).await;
        }
        let has_led = matches!(self.told, Told::Leads(_)) && !is_news;
        self.told = told;
        // A leader knows what it has committed.
        if self.owes_load && !has_led {
            self.load().await;
        }
        if let Told::Leads(term) = self.told
            && is_news
        {
            self.lead(term).await;
        }
    }

    async fn follow(&mut self, told: &Told) {
        let Told::Follows(leader) = told else { return };
        match leader {
            Some(leader) => debug!("replica {} leads", leader.replica),
            None => debug!("no replica leads"),
        }
        self.tell(Feed::Follow(leader.clone())).await;
    }

    async fn load(&mut self) {
        let Some(image) = &self.image else { return };
        let saved = image.saved(&self.settings.boot_id);
        let revision = store_revision(image.revision());
        self.owes_load = false;
        self.tell(Feed::Loaded(revision, Box::new(saved))).await;
    }

    async fn lead(&mut self, term: Term) {
        debug!("this replica leads");
        (self.made, self.attempts, self.last_commit) = (0, 0, 0);
        self.collect(term);
        self.tell(Feed::Lead(term)).await;
    }

    fn leader_info(&self, leader: &Leader) -> Option<LeaderInfo> {
        let value = leader.value.as_ref()?;
        // What is left of our own leadership leads nobody.
        (value.replica != self.settings.replica).then(|| LeaderInfo {
            replica: value.replica.clone(),
            relay: value.relay.clone(),
            term: leader.term,
        })
    }

    async fn tell(&mut self, feed: Feed) {
        // A registry that is gone hears nothing more.
        let _ = self.ends.tell.send(feed).await;
    }

    fn send(&self, txn: Transaction, after: Duration) -> Sent {
        let (kv, limit) = (self.kv.clone(), self.settings.ttl);
        Box::pin(async move {
            tokio::time::sleep(after).await;
            kv.transact_within(&txn, limit).await
        })
    }

    /// Has deleted what nobody needs any more. Only the leader does that.
    fn collect(&mut self, term: Term) {
        if let Some(image) = &self.image {
            self.housekeeping.extend(housekeeping::collect(image, &self.layout, term, SystemTime::now()));
        }
    }

    fn say_alive(&mut self) {
        // One that waits is as good as a second one.
        if !self.settings.boot_id.is_empty() && self.housekeeping.len() < MAX_HOUSEKEEPING {
            self.housekeeping.push_back(housekeeping::alive(
                &self.layout,
                &self.settings.boot_id,
                SystemTime::now(),
            ));
        }
    }

    fn do_chore(&mut self) {
        if self.tidying.is_none()
            && let Some(txn) = self.housekeeping.pop_front()
        {
            self.tidying = Some(self.send(txn, Duration::ZERO));
        }
    }

    /// What was not done is done with the next one of its kind.
    fn housekeeping_done(&mut self, answer: Result<Answer, Fault>) {
        self.tidying = None;
        if let Err(fault) = answer {
            debug!(error = %fault.error(), "etcd did not take what nobody waits for");
        }
    }

    fn show(&self) {
        let until = self.leadership.proven_until().map_or(0, |until| until.as_nanos());
        self.ends.proven_until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Release);
        let status = self.status();
        self.ends.show.send_if_modified(|shown| {
            let is_news = *shown != status;
            if is_news {
                *shown = status;
            }
            is_news
        });
    }

    fn status(&self) -> Status {
        let Some(image) = &self.image else {
            return Status { trouble: self.trouble.clone(), ..Status::default() };
        };
        let leader = image.leader().and_then(|leader| {
            let LeaderValue { replica, relay } = leader.value.clone()?;
            Some(LeaderInfo { replica, relay, term: leader.term })
        });
        Status {
            revision: u64::try_from(image.revision()).unwrap_or(0),
            sessions: image.session_count(),
            leader,
            leads: matches!(self.told, Told::Leads(_)),
            trouble: self.trouble.clone(),
            replicas: present(image),
            unreadable: image.unreadable().clone(),
        }
    }
}

/// The replicas that are present and can be read.
fn present(image: &Image) -> BTreeMap<String, presence::Presence> {
    let read = |(id, value): (&String, &Vec<u8>)| Some((id.clone(), presence::read(value)?));
    image.replicas().iter().filter_map(read).collect()
}

fn store_revision(revision: i64) -> StoreRevision {
    StoreRevision(u64::try_from(revision).unwrap_or(0))
}

/// The id of a cluster, if it has none yet.
fn random_id() -> String {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => format!("{:032x}", u128::from_ne_bytes(bytes)),
        Err(_) => format!("{:032x}", fastrand::u128(..)),
    }
}

async fn of<T>(future: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
