//! From what the shared store says to the registry, the router and the status, in an order that no reply can overtake.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::info;

use super::role::{Leader, Role};
use super::shared::{Proof, Shared, server_stops};
use super::status::StatusWriter;
use crate::server::listener::Message;
use crate::server::registry::persist::{SavedState, StoreChange};
use crate::server::registry::{Input, StoreRevision, Term};

/// What the shared store says.
#[derive(Debug)]
pub enum News {
    /// Everything that is held at a revision.
    Loaded(StoreRevision, Box<SavedState>),
    /// What a revision has changed.
    Changed(StoreRevision, Vec<StoreChange>),
    /// This replica leads.
    Lead(Term),
    /// It follows; `None`: nobody leads, or nobody who can be reached.
    Follow(Option<Leader>),
}

/// How the store is, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreView {
    /// The revision that this replica knows.
    pub revision: u64,
    /// Why what is known may be out of date.
    pub trouble: Option<String>,
    /// The replicas that are present, this one included.
    pub replicas: Vec<String>,
}

pub(super) struct Conductor {
    registry: mpsc::Sender<Message>,
    leads: watch::Sender<Option<Term>>,
    roles: watch::Sender<Role>,
    status: StatusWriter,
    proof: Proof,
    /// How often to look whether there is a proof.
    look: Duration,
    /// Whether the registry takes it that there is one.
    answers: bool,
}

impl Conductor {
    pub(super) fn new(
        registry: mpsc::Sender<Message>,
        leads: watch::Sender<Option<Term>>,
        roles: watch::Sender<Role>,
        status: StatusWriter,
        shared: &Shared,
    ) -> Self {
        let (proof, look) = (Arc::clone(&shared.proof), shared.ttl / 20);
        Conductor { registry, leads, roles, status, proof, look, answers: true }
    }

    /// Passes everything on until the server stops.
    pub(super) async fn run(
        mut self,
        mut news: mpsc::Receiver<News>,
        mut view: watch::Receiver<StoreView>,
        stopped: watch::Receiver<bool>,
    ) {
        let stops = server_stops(stopped);
        tokio::pin!(stops);
        let mut looks = interval(self.look);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                said = news.recv() => {
                    let Some(said) = said else { break };
                    self.pass(said).await;
                }
                Ok(()) = view.changed() => {
                    let view = view.borrow_and_update().clone();
                    self.show(view).await;
                }
                _ = looks.tick() => self.look_for_proof().await,
                () = &mut stops => return,
            }
        }
        // Without a store this replica is what it was, and serves what it has.
        stops.await;
    }

    /// Tells the registry of a leader when it can say nothing for want of a proof, and when it can again.
    async fn look_for_proof(&mut self) {
        let answers = self.leads.borrow().is_none() || (self.proof)();
        if std::mem::replace(&mut self.answers, answers) != answers {
            self.tell(Input::Answers(answers)).await;
        }
    }

    async fn pass(&mut self, said: News) {
        match said {
            News::Loaded(revision, saved) => {
                self.tell(Input::Loaded(revision, saved)).await;
                self.status.change(|status| status.is_loaded = true);
            }
            News::Changed(revision, changes) => self.tell(Input::Replicated(revision, changes)).await,
            News::Lead(term) => {
                // The registry leads before the first connection is announced to it.
                self.answers = true;
                self.tell(Input::Lead(term)).await;
                self.leads.send_replace(Some(term));
                self.change_role(Role::Leading(term));
            }
            News::Follow(leader) => {
                // Nothing goes out any more before the registry hears of it and lets go of its connections.
                self.leads.send_replace(None);
                let term = leader.as_ref().map(|leader| leader.term);
                self.change_role(leader.map_or(Role::Leaderless, Role::Following));
                self.tell(Input::Follow(term)).await;
            }
        }
    }

    fn change_role(&self, role: Role) {
        match &role {
            Role::Leaderless => info!("no server leads: applies wait, and what is in force is served"),
            Role::Leading(term) => info!(term = term.0, "this server leads"),
            Role::Following(leader) => {
                info!(
                    leader = leader.name,
                    address = leader.address,
                    term = leader.term.0,
                    "another server leads"
                );
            }
        }
        self.status.change(|status| {
            status.role = role.clone();
            status.since = SystemTime::now();
        });
        self.roles.send_if_modified(|known| std::mem::replace(known, role.clone()) != role);
    }

    async fn show(&self, view: StoreView) {
        self.status.revisions().ours.store(view.revision, Ordering::Relaxed);
        let (mut ours, mut are_news) = (String::new(), false);
        self.status.change(|status| {
            ours.clone_from(&status.replica);
            are_news = status.replicas != view.replicas;
            status.trouble.clone_from(&view.trouble);
            status.replicas.clone_from(&view.replicas);
        });
        if are_news {
            let others = view.replicas.into_iter().filter(|name| *name != ours).collect();
            self.tell(Input::Replicas(others)).await;
        }
    }

    async fn tell(&self, input: Input) {
        // An error means that the registry has ended, and the server with it.
        let _ = self.registry.send(Message::Input(Box::new(input))).await;
    }
}
