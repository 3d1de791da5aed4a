//! A service that is watched: the task that carries out what [`follower`] says, and the handle that people hold.

mod follower;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::error::Error;
use crate::etcd::{Etcd, Keys, Watch};
use crate::layout::Prefix;

pub use follower::Snapshot;
use follower::{Follower, Input, Step};

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What is known of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// All of its nodes, as they were at one moment; `None`: etcd has not been reached yet.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Why the snapshot may be out of date; `None`: it is as new as etcd's watch makes it.
    pub trouble: Option<Error>,
}

/// A service that is watched until this is dropped.
#[derive(Debug)]
pub struct ServiceWatch {
    views: watch::Receiver<Arc<View>>,
    task: AbortHandle,
}

impl ServiceWatch {
    pub(crate) fn start(etcd: Etcd, prefix: Prefix) -> ServiceWatch {
        let (shown, views) = watch::channel(Arc::new(View::default()));
        let task = tokio::spawn(run(etcd, prefix, shown)).abort_handle();
        ServiceWatch { views, task }
    }

    /// What is known now.
    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    /// Waits until more is known than what this returned last, and returns all that is known then; what was only in
    /// between is left out. Cancel-safe.
    pub async fn next(&mut self) -> Arc<View> {
        if self.views.changed().await.is_err() {
            // Only with its runtime does the task end before us.
            std::future::pending::<()>().await;
        }
        self.views.borrow_and_update().clone()
    }

    /// Waits for the next complete snapshot, whatever trouble there is in between. Cancel-safe.
    pub async fn next_snapshot(&mut self) -> Arc<Snapshot> {
        let last = self.views.borrow().snapshot.clone();
        loop {
            match &self.next().await.snapshot {
                Some(snapshot) if last.as_ref() != Some(snapshot) => return snapshot.clone(),
                _ => {}
            }
        }
    }
}

impl Drop for ServiceWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(etcd: Etcd, prefix: Prefix, shown: watch::Sender<Arc<View>>) {
    let (mut follower, begun) =
        (Follower::new(prefix.clone(), LONGEST_PAUSE, fastrand::u64(..)), Instant::now());
    let mut open: Option<Watch> = None;
    loop {
        let input = match follower.step() {
            Step::Wait { until } => {
                sleep_until(begun + until).await;
                Input::Waited
            }
            Step::Load { after, revision } => {
                match etcd.page(prefix.as_str(), after.as_deref(), revision).await {
                    Ok(page) => Input::Page(page),
                    Err(fault) => Input::Failed(fault),
                }
            }
            Step::Open { revision } => match etcd.watch(Keys::Below(prefix.as_str()), revision).await {
                Ok(watch) => {
                    open = Some(watch);
                    Input::Opened
                }
                Err(fault) => Input::Failed(fault),
            },
            Step::Listen => match &mut open {
                Some(watch) => match watch.next().await {
                    Ok((changes, revision)) => Input::Changed { changes, revision },
                    Err(fault) => {
                        etcd.abandon(&fault).await;
                        Input::Failed(fault)
                    }
                },
                None => Input::Failed(crate::error::Fault::Away(Error::Ended)),
            },
        };
        if matches!(input, Input::Failed(_)) {
            open = None;
        }
        follower.on(input, begun.elapsed());
        let view = follower.view();
        shown.send_if_modified(|shown| {
            let is_news = **shown != view;
            if is_news {
                *shown = Arc::new(view);
            }
            is_news
        });
    }
}
