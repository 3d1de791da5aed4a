//! A registration: the task that carries out what [`machine`] says, and the handle that people hold.

mod machine;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::BroadcastStream;

use crate::error::{Error, Fault};
use crate::etcd::{Change, Claimed, Etcd, Keys, Watch};
use crate::node::{self, Info};

pub use machine::State;
use machine::{Answer, Call, Event as Input, Machine, Time, renewal_limit};

/// So many events wait for whoever reads them.
const EVENTS: usize = 64;

/// What happens if a living node has the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnTaken {
    /// The registration waits for the end of that node, because it may be what is left of ourselves after a crash.
    #[default]
    Wait,
    /// The registration ends with [`Error::NameTaken`].
    Refuse,
}

/// What happens with a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is in another state now.
    State(State),
    /// Something went wrong. The registration tries again, unless a final state follows.
    Trouble(Error),
    /// So many events were not read in time.
    Missed(u64),
}

/// A node that is kept in etcd until this is dropped or [`Registration::deregister`] is called.
///
/// Dropping it deregisters in the background, as long as the runtime lives; otherwise the node goes with its lease.
#[derive(Debug)]
pub struct Registration {
    commands: mpsc::UnboundedSender<Command>,
    state: watch::Receiver<State>,
    events: broadcast::Sender<Event>,
}

#[derive(Debug)]
enum Command {
    SetInfo(Info),
    Leave { limit: Duration },
}

impl Registration {
    pub(crate) fn start(
        etcd: Etcd,
        key: String,
        info: &Info,
        ttl: Duration,
        on_taken: OnTaken,
    ) -> Registration {
        let (commands, orders) = mpsc::unbounded_channel();
        let (states, state) = watch::channel(State::Registering);
        let (events, _) = broadcast::channel(EVENTS);
        let driver = Driver {
            machine: Machine::new(key.clone(), ttl, on_taken, fastrand::u64(..)),
            key,
            value: node::encode(info),
            ttl,
            begun: Instant::now(),
            states,
            events: events.clone(),
            etcd,
        };
        tokio::spawn(driver.run(orders));
        Registration { commands, state, events }
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until the node is in etcd. Cancel-safe.
    ///
    /// # Errors
    /// What ended the registration before that.
    pub async fn registered(&self) -> Result<(), Error> {
        let mut state = self.state.clone();
        let reached = state.wait_for(|state| *state == State::Registered || state.is_final()).await;
        match reached.as_deref() {
            Ok(State::Registered) => Ok(()),
            Ok(State::Failed(error)) => Err(error.clone()),
            _ => Err(Error::Ended),
        }
    }

    /// What happens from now on. It ends with the registration.
    pub fn events(&self) -> Events {
        Events(BroadcastStream::new(self.events.subscribe()))
    }

    /// Changes what the node says about itself. The change is written as soon as etcd is reached.
    pub fn set_info(&self, info: Info) {
        // Who has ended says nothing any more.
        let _ = self.commands.send(Command::SetInfo(info));
    }

    /// Takes the node out, if it is still ours, and waits until etcd has done so, at most for `limit`. A caller that
    /// stops waiting has deregistered all the same.
    ///
    /// # Errors
    /// Where etcd could not be told; the node goes with its lease.
    pub async fn deregister(mut self, limit: Duration) -> Result<(), Error> {
        let _ = self.commands.send(Command::Leave { limit });
        let ended = self.state.wait_for(State::is_final).await;
        match ended.as_deref() {
            Ok(State::Deregistered) | Err(_) => Ok(()),
            Ok(State::Failed(error)) => Err(error.clone()),
            Ok(_) => Err(Error::Ended),
        }
    }
}

/// The events of a registration, as a stream.
pub struct Events(BroadcastStream<Event>);

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        use tokio_stream::wrappers::errors::BroadcastStreamRecvError::Lagged;
        Pin::new(&mut self.0)
            .poll_next(cx)
            .map(|next| next.map(|event| event.unwrap_or_else(|Lagged(missed)| Event::Missed(missed))))
    }
}

impl Events {
    /// The next event; `None`: the registration has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

struct Driver {
    etcd: Etcd,
    key: String,
    value: String,
    ttl: Duration,
    machine: Machine,
    begun: Instant,
    states: watch::Sender<State>,
    events: broadcast::Sender<Event>,
}

type Asked = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Watched = Pin<Box<dyn Future<Output = (Input, Option<Watch>)> + Send>>;

impl Driver {
    fn now(&self) -> Time {
        self.begun.elapsed()
    }

    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Command>) {
        let mut asked: Option<Asked> = None;
        let mut watched: Option<(i64, Watched)> = None;
        let mut is_leaving = false;
        loop {
            if let Some(call) = self.machine.call(self.now()) {
                asked = Some(self.ask(call));
            }
            if self.show().is_final() {
                return;
            }
            let from = self.machine.watched_from();
            if from != watched.as_ref().map(|(from, _)| *from) {
                watched = from.map(|from| (from, self.watch_from(from)));
            }
            let due = self.machine.due(self.now()).map(|time| self.begun + time);
            let input = tokio::select! {
                biased;
                order = orders.recv(), if !is_leaving => {
                    let input = self.order(order);
                    if matches!(input, Input::Leave { .. }) {
                        // It may hang; what becomes of it, withdrawing takes care of.
                        asked = None;
                        is_leaving = true;
                    }
                    Some(input)
                }
                answer = of(&mut asked) => {
                    asked = None;
                    Some(Input::Answered(answer))
                }
                (input, watch) = of_watch(&mut watched) => {
                    if let (Some((_, next)), Some(watch)) = (&mut watched, watch) {
                        *next = Box::pin(next_change(watch, self.key.clone()));
                    }
                    if let Input::WatchLost(fault) = &input {
                        self.etcd.abandon(fault).await;
                    }
                    Some(input)
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => None,
            };
            if let Some(input) = input {
                self.machine.on(input, self.now());
            }
        }
    }

    fn order(&mut self, order: Option<Command>) -> Input {
        match order {
            Some(Command::SetInfo(info)) => {
                self.value = node::encode(&info);
                Input::NewValue
            }
            Some(Command::Leave { limit }) => Input::Leave { until: self.now() + limit },
            // The handle was dropped.
            None => Input::Leave { until: self.now() + self.ttl },
        }
    }

    /// Tells people what is new.
    fn show(&mut self) -> State {
        let state = self.machine.state(self.now());
        for trouble in self.machine.take_troubles() {
            let _ = self.events.send(Event::Trouble(trouble));
        }
        if *self.states.borrow() != state {
            let _ = self.events.send(Event::State(state.clone()));
            self.states.send_replace(state.clone());
        }
        state
    }

    fn ask(&self, call: Call) -> Asked {
        let (etcd, key, value, ttl) = (self.etcd.clone(), self.key.clone(), self.value.clone(), self.ttl);
        Box::pin(async move {
            let answer = match call {
                Call::Grant { lease } => etcd.grant(lease, ttl).await.map(|ttl| Answer::Granted { ttl }),
                Call::Renew { lease } => {
                    etcd.renew(lease, renewal_limit(ttl)).await.map(|()| Answer::Renewed)
                }
                Call::Claim { lease, .. } => {
                    etcd.claim(&key, &value, lease).await.map(|claimed| match claimed {
                        Claimed::Now { revision } => Answer::Claimed { revision },
                        Claimed::Found { record, revision } => {
                            Answer::Found { lease: record.lease, created: record.created, revision }
                        }
                    })
                }
                Call::Write { lease, created, .. } => {
                    let written = etcd.write(&key, &value, lease, created).await;
                    written.map(|is_ours| if is_ours { Answer::Written } else { Answer::NotOurs })
                }
                Call::Withdraw { lease, created } => {
                    // One that hangs is asked again, of another member.
                    let withdrawn = timeout(renewal_limit(ttl), etcd.withdraw(&key, lease, created)).await;
                    withdrawn.unwrap_or(Err(Fault::Away(Error::Ended))).map(|()| Answer::Withdrawn)
                }
            };
            answer.unwrap_or_else(Answer::Failed)
        })
    }

    fn watch_from(&self, revision: i64) -> Watched {
        let (etcd, key) = (self.etcd.clone(), self.key.clone());
        Box::pin(async move {
            match etcd.watch(Keys::One(&key), revision).await {
                Ok(watch) => next_change(watch, key).await,
                Err(fault) => (Input::WatchLost(fault), None),
            }
        })
    }
}

/// The last change decides: what was in between has passed.
async fn next_change(mut watch: Watch, key: String) -> (Input, Option<Watch>) {
    let input = loop {
        match watch.next().await {
            Ok((changes, _)) => match changes.into_iter().next_back() {
                Some(Change::Put(record)) if record.key == key => {
                    break Input::KeyPut { lease: record.lease, created: record.created };
                }
                Some(Change::Gone(gone)) if gone == key => break Input::KeyGone,
                _ => {}
            },
            Err(fault) => return (Input::WatchLost(fault), None),
        }
    };
    (input, Some(watch))
}

async fn of(asked: &mut Option<Asked>) -> Answer {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}

async fn of_watch(watched: &mut Option<(i64, Watched)>) -> (Input, Option<Watch>) {
    match watched {
        Some((_, watched)) => watched.await,
        None => std::future::pending().await,
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
