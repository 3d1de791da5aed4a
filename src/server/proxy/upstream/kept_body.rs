//! The beginning of a request's body, kept so that it can be sent again after a backend has refused it unread.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::server::proxy::buffered::Reserved;

/// How much of a body is kept. What has sent more cannot be sent again.
pub(crate) const MAX_KEPT: usize = 64 * 1024;

/// The body is sent again, so this attempt gets no more of it.
#[derive(Debug, thiserror::Error)]
#[error("the body is sent again from its beginning")]
pub(crate) struct SentAgain;

/// A body from its beginning on, for one attempt.
pub(crate) struct KeptBody<B> {
    source: Rc<RefCell<Source<B>>>,
    attempt: usize,
    /// The next kept part to send.
    next: usize,
}

struct Source<B> {
    rest: B,
    /// What came from `rest` already; `None`: it was too much, or nobody needs it any more.
    kept: Option<Kept>,
    /// The attempt that may read.
    attempt: usize,
}

struct Kept {
    parts: Vec<Bytes>,
    bytes: usize,
    _memory: Reserved,
}

impl<B> KeptBody<B> {
    pub(super) fn new(rest: B, memory: Reserved) -> Self {
        let kept = Some(Kept { parts: Vec::new(), bytes: 0, _memory: memory });
        let source = Source { rest, kept, attempt: 0 };
        KeptBody { source: Rc::new(RefCell::new(source)), attempt: 0, next: 0 }
    }

    /// The same body, for whoever may have to send it again.
    pub(crate) fn spare(&self) -> SpareBody<B> {
        SpareBody(Rc::clone(&self.source))
    }

    /// Looks at the body that it has the rest from.
    pub(super) fn of_source<T>(&self, look: impl FnOnce(&B) -> T) -> T {
        look(&self.source.borrow().rest)
    }
}

/// Can begin a body anew, as long as all that was sent of it is kept.
pub(crate) struct SpareBody<B>(Rc<RefCell<Source<B>>>);

impl<B> SpareBody<B> {
    /// The body from its beginning on. The attempt before gets no more of it. `None`: its beginning is gone.
    pub(crate) fn again(self) -> Option<KeptBody<B>> {
        let mut source = self.0.borrow_mut();
        source.kept.as_ref()?;
        source.attempt += 1;
        let attempt = source.attempt;
        drop(source);
        Some(KeptBody { source: self.0, attempt, next: 0 })
    }

    /// Nobody will need the beginning again.
    pub(crate) fn forget(self) {
        // An attempt that has sent less than all of it would miss it.
        let mut source = self.0.borrow_mut();
        if source.attempt == 0 {
            source.kept = None;
        }
    }
}

impl<B> Source<B> {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(kept) = &mut self.kept else { return };
        match frame.data_ref() {
            // A copy, because a part keeps the whole buffer alive that it was read into.
            Some(part) if kept.bytes + part.len() <= MAX_KEPT => {
                kept.bytes += part.len();
                kept.parts.push(Bytes::copy_from_slice(part));
            }
            _ => self.kept = None,
        }
    }

    fn unsent(&self, next: usize) -> u64 {
        let parts = self.kept.iter().flat_map(|kept| kept.parts.iter().skip(next));
        parts.map(|part| part.len() as u64).sum()
    }
}

impl<B> Body for KeptBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: From<SentAgain>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let mut source = this.source.borrow_mut();
        if source.attempt != this.attempt {
            return Poll::Ready(Some(Err(SentAgain.into())));
        }
        if let Some(part) = source.kept.as_ref().and_then(|kept| kept.parts.get(this.next)) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(part.clone()))));
        }
        let frame = ready!(Pin::new(&mut source.rest).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            source.keep(frame);
            this.next += 1;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.borrow();
        source.unsent(self.next) == 0 && source.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.source.borrow();
        let (rest, unsent) = (source.rest.size_hint(), source.unsent(self.next));
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + unsent);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + unsent);
        }
        hint
    }
}
