//! Keeps the latest events of all sessions, and lets others subscribe to those to come.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};
use tokio::sync::broadcast;

use registry_client::Event;

/// How many events are kept.
const MAX_RECENT: usize = 100;
/// How many events a slow subscriber may fall behind before it misses some.
const SUBSCRIBER_BUFFER: usize = 256;

/// Receives events as lines of JSON.
pub(crate) type EventReceiver = broadcast::Receiver<Arc<str>>;

/// Events are kept as lines of JSON, which take a tenth of the memory of parsed values.
pub(super) struct History {
    recent: Mutex<VecDeque<Arc<str>>>,
    subscribers: broadcast::Sender<Arc<str>>,
}

impl History {
    pub(super) fn new() -> Self {
        let subscribers = broadcast::Sender::new(SUBSCRIBER_BUFFER);
        History { recent: Mutex::new(VecDeque::new()), subscribers }
    }

    /// Keeps an event of the session with `registry` and sends it to the subscribers.
    pub(super) fn add(&self, registry: &str, event: &Event) {
        self.keep(&as_json(registry, event));
    }

    /// The same for what is no event of the client.
    pub(super) fn add_message(&self, registry: &str, event: &'static str, message: &str) {
        self.keep(&json!({"event": event, "registry": registry, "message": message}));
    }

    fn keep(&self, event: &Value) {
        let event: Arc<str> = event.to_string().into();
        let mut recent = self.recent();
        if recent.len() >= MAX_RECENT {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(&event));
        // It fails where there is no subscriber.
        drop(self.subscribers.send(event));
    }

    /// The events kept so far, and a receiver of those that follow them without a gap.
    pub(super) fn subscribe(&self) -> (Vec<Arc<str>>, EventReceiver) {
        let recent = self.recent();
        (recent.iter().cloned().collect(), self.subscribers.subscribe())
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Arc<str>>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn as_json(registry: &str, event: &Event) -> Value {
    let mut fields = Map::new();
    fields.insert("event".to_owned(), event.name().into());
    fields.insert("registry".to_owned(), registry.into());
    fields.extend(event.data());
    Value::Object(fields)
}
