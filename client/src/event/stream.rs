//! What a listener reads the events of a client from.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::sync::broadcast::{self, Receiver, error::RecvError};
use tokio_util::sync::ReusableBoxFuture;

use super::Event;

/// The events of a client, from the moment of the subscription on; a [`Stream`] that ends when the client has stopped.
///
/// A listener that does not keep up never holds the client back: it loses the oldest events and is told how
/// many with [`Event::Missed`]. A stream that is never read costs the memory of 256 events.
#[derive(Debug)]
#[must_use = "a stream that is not read tells nothing; where no events are needed, drop it"]
pub struct EventStream {
    /// Waits for the next event and returns the receiver with it. Events are behind a pointer, because the channel
    /// has room for each from the start.
    receiving: ReusableBoxFuture<'static, Received>,
}

type Received = (Result<Arc<Event>, RecvError>, Receiver<Arc<Event>>);

/// How many events a slow listener may be behind.
pub(crate) const EVENT_BUFFER: usize = 256;

impl EventStream {
    pub(crate) fn new(receiver: broadcast::Receiver<Arc<Event>>) -> Self {
        EventStream { receiving: ReusableBoxFuture::new(receive(receiver)) }
    }

    /// The next event; `None` when the client has stopped and all events were read.
    ///
    /// Cancel safe: a dropped call loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

async fn receive(mut receiver: Receiver<Arc<Event>>) -> Received {
    (receiver.recv().await, receiver)
}

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let (received, receiver) = ready!(self.receiving.poll(context));
        self.receiving.set(receive(receiver));
        Poll::Ready(match received {
            Ok(event) => Some(Arc::unwrap_or_clone(event)),
            Err(RecvError::Lagged(count)) => Some(Event::Missed(count)),
            Err(RecvError::Closed) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_missed_and_holds_nobody_back() {
        let (sender, receiver) = broadcast::channel(2);
        let mut events = EventStream::new(receiver);
        for count in 0..5 {
            sender.send(Arc::new(Event::Missed(count + 100))).unwrap();
        }
        drop(sender);
        assert_eq!(events.next().await, Some(Event::Missed(3)));
        assert_eq!(events.next().await, Some(Event::Missed(103)));
        assert_eq!(events.next().await, Some(Event::Missed(104)));
        assert_eq!(events.next().await, None);
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    async fn a_read_that_is_given_up_loses_no_event() {
        let (sender, receiver) = broadcast::channel(2);
        let mut events = EventStream::new(receiver);
        tokio::select! {
            biased;
            _ = events.next() => panic!("there is no event yet"),
            () = std::future::ready(()) => {}
        }
        sender.send(Arc::new(Event::Missed(7))).unwrap();
        assert_eq!(events.next().await, Some(Event::Missed(7)));
    }
}
