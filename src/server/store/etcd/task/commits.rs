//! The task's commits: what waits becomes transactions, one after another, and the registry is told what became of each.

use std::time::Duration;

use registry_nodes::kv::{Answer, Fault};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::server::registry::Tx;
use crate::server::store::Decision;
use crate::server::store::etcd::Said;
use crate::server::store::etcd::backoff::pause;
use crate::server::store::etcd::clock;
use crate::server::store::etcd::commit::{Commit, Progress, Rejection};
use crate::server::store::etcd::leadership::{Event, Time};
use crate::server::store::etcd::transaction::{Fence, Plan, plan};

use super::{Sent, Task, Told};

/// A commit on its way.
pub(super) struct Committing {
    commit: Commit,
    pub(super) since: Time,
    sent: Time,
    failures: u32,
    answer: Sent,
}

impl Task {
    /// Sends the next commit, if the image knows what the last one has left.
    pub(super) fn commit(&mut self) {
        let Told::Leads(term) = self.told else { return self.reject_waiting() };
        let Some(image) = &self.image else { return };
        while self.committing.is_none() && image.revision() >= self.last_commit {
            self.attempts += 1;
            let (number, attempt) = (self.made + 1, self.attempts);
            let fence = Fence { layout: &self.layout, term, number, attempt };
            match plan(&mut self.waiting, image, fence) {
                None => return,
                Some(Plan::Reject(tx)) => {
                    warn!("a change needs more room than etcd gives one transaction");
                    decide(&self.ends.say, &[tx], Decision::Rejected);
                }
                Some(Plan::Commit(planned)) => {
                    let commit = Commit::new(*planned, fence.question(), term, fence.number);
                    let (now, answer) = (clock::now(), self.send(commit.next().clone(), Duration::ZERO));
                    let failures = 0;
                    self.committing = Some(Committing { commit, since: now, sent: now, failures, answer });
                }
            }
        }
    }

    /// Only a leader commits.
    pub(super) fn reject_waiting(&mut self) {
        let txs: Vec<Tx> = self.waiting.drain(..).map(|(tx, _)| tx).collect();
        decide(&self.ends.say, &txs, Decision::Rejected);
    }

    pub(super) fn answered(&mut self, answer: Result<Answer, Fault>) {
        let Some(mut committing) = self.committing.take() else { return };
        let held = answer.as_ref().is_ok_and(|answer| answer.succeeded);
        if held && self.leadership.term() == Some(committing.commit.term()) {
            self.leadership.on(Event::Held { sent: committing.sent }, clock::now());
        }
        let (progress, txs) = (committing.commit.answered(answer), committing.commit.txs());
        match progress {
            Progress::Committed { revision } => {
                self.made = committing.commit.number();
                self.last_commit = revision;
                return decide(&self.ends.say, txs, Decision::Committed);
            }
            Progress::Rejected(why) => {
                match why {
                    Rejection::TermOver => info!("etcd has another leader; changes that waited are rejected"),
                    Rejection::Refused(error) => warn!(%error, "etcd does not take changes"),
                }
                decide(&self.ends.say, txs, Decision::Rejected);
                if let Told::Leads(term) = self.told {
                    self.collect(term);
                }
                return;
            }
            Progress::Next => committing.failures = 0,
            Progress::Again(error) => {
                debug!(%error, "a commit is sent again");
                committing.failures = committing.failures.saturating_add(1);
            }
        }
        let after = committing.failures.checked_sub(1).map_or(Duration::ZERO, pause);
        committing.sent = clock::now() + after;
        committing.answer = self.send(committing.commit.next().clone(), after);
        self.committing = Some(committing);
    }
}

fn decide(say: &mpsc::UnboundedSender<Said>, txs: &[Tx], decision: Decision) {
    for tx in txs {
        // The registry is gone when the server stops.
        let _ = say.send(Said::Decided(*tx, decision));
    }
}

pub(super) async fn answer_of(committing: &mut Option<Committing>) -> Result<Answer, Fault> {
    match committing {
        Some(committing) => (&mut committing.answer).await,
        None => std::future::pending().await,
    }
}
