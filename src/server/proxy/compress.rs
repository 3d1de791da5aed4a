//! A response's body in another coding. It streams: what the backend has sent so far is with the client before the
//! backend is waited for.

use std::io::{self, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::HeaderMap;
use hyper::body::{Body, Frame};

use super::body::{Broken, Download};
use super::coding::Coding;
use super::worker::Worker;

/// How much is compressed before it is passed on, if the backend is that fast.
const CHUNK: usize = 16 * 1024;
/// How much is read at a time without letting others have the thread.
const TURN: usize = 128 * 1024;
/// So many responses of a worker are compressed at once, each with up to about 1 MiB; more stay as they are.
pub(super) const MOST_AT_ONCE: usize = 256;
/// Levels that compress about as fast as a fast network sends.
const BROTLI_LEVEL: u32 = 4;
const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 5;
/// How far back repetitions are looked for, as a power of two: it bounds the memory of each response.
const WINDOW_BITS: u32 = 18;

/// A body that is compressed on its way.
pub(super) struct Compressed {
    download: Download,
    coding: Coding,
    /// `None`: it has not begun, or it is over.
    encoder: Option<Encoder>,
    over: bool,
    /// The encoder holds something back.
    dirty: bool,
    /// The backend is being waited for since what was passed on last.
    waits: bool,
    trailers: Option<HeaderMap>,
    _slot: Slot,
}

/// One of the responses that a worker compresses, counted until this is dropped.
pub(super) struct Slot(Rc<Worker>);

impl Slot {
    /// `None`: there are enough.
    pub(super) fn take(worker: &Rc<Worker>) -> Option<Self> {
        let count = worker.compressing.get();
        (count < MOST_AT_ONCE).then(|| {
            worker.compressing.set(count + 1);
            Slot(Rc::clone(worker))
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.compressing.set(self.0.compressing.get() - 1);
    }
}

enum Encoder {
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Encoder {
    fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Brotli => {
                let writer = brotli::CompressorWriter::new(Vec::new(), 4096, BROTLI_LEVEL, WINDOW_BITS);
                Encoder::Brotli(Box::new(writer))
            }
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.window_log(WINDOW_BITS)?;
                Encoder::Zstd(encoder)
            }
            Coding::Gzip => Encoder::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL))),
        })
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Encoder::Brotli(encoder) => encoder,
            Encoder::Zstd(encoder) => encoder,
            Encoder::Gzip(encoder) => encoder,
        }
    }

    /// What is compressed so far.
    fn output(&mut self) -> &mut Vec<u8> {
        match self {
            Encoder::Brotli(encoder) => encoder.get_mut(),
            Encoder::Zstd(encoder) => encoder.get_mut(),
            Encoder::Gzip(encoder) => encoder.get_mut(),
        }
    }

    /// The rest.
    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Brotli(encoder) => Ok(encoder.into_inner()),
            Encoder::Zstd(encoder) => encoder.finish(),
            Encoder::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl Compressed {
    pub(super) fn new(download: Download, coding: Coding, slot: Slot) -> Self {
        let (encoder, over, dirty, waits, trailers) = (None, false, false, false, None);
        Compressed { download, coding, encoder, over, dirty, waits, trailers, _slot: slot }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over && self.trailers.is_none()
    }

    /// The next part. Ready(None): there is nothing more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.over {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if std::mem::take(&mut self.waits) {
            // It wakes us. Until then what was passed on is sent.
            return Poll::Pending;
        }
        let mut encoder = match self.encoder.take().map_or_else(|| Encoder::new(self.coding), Ok) {
            Ok(encoder) => encoder,
            Err(error) => return Poll::Ready(Some(Err(Broken::Coding(error)))),
        };
        match self.compress(&mut encoder, cx) {
            Poll::Ready(Ok(Step::End)) => {
                self.over = true;
                let rest = encoder.finish().map_err(Broken::Coding);
                Poll::Ready(Some(rest.map(|rest| Frame::data(Bytes::from(rest)))))
            }
            Poll::Ready(Ok(step)) => {
                self.waits = matches!(step, Step::Wait);
                let part = std::mem::take(encoder.output());
                self.encoder = Some(encoder);
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(part)))))
            }
            Poll::Ready(Err(broken)) => {
                self.over = true;
                Poll::Ready(Some(Err(broken)))
            }
            Poll::Pending => {
                self.encoder = Some(encoder);
                Poll::Pending
            }
        }
    }

    /// Compresses until there is something to pass on, or nothing more to be had.
    fn compress(&mut self, encoder: &mut Encoder, cx: &mut Context<'_>) -> Poll<Result<Step, Broken>> {
        let mut read = 0;
        loop {
            let step = match Pin::new(&mut self.download).poll_frame(cx) {
                Poll::Ready(Some(Err(broken))) => return Poll::Ready(Err(broken)),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        read += data.len();
                        self.dirty = true;
                        encoder.writer().write_all(&data).map(|()| Step::More)
                    }
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        Ok(Step::End)
                    }
                },
                Poll::Ready(None) => Ok(Step::End),
                Poll::Pending if self.dirty => {
                    self.dirty = false;
                    encoder.writer().flush().map(|()| Step::Wait)
                }
                Poll::Pending => Ok(Step::Wait),
            };
            match step.map_err(Broken::Coding)? {
                Step::End => return Poll::Ready(Ok(Step::End)),
                Step::More if encoder.output().len() < CHUNK && read < TURN => {}
                step if !encoder.output().is_empty() => return Poll::Ready(Ok(step)),
                Step::Wait => return Poll::Pending,
                Step::More => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }
}

/// What a look at the backend's body came to.
enum Step {
    /// There may be more at once.
    More,
    /// Nothing more has come yet.
    Wait,
    /// There is nothing more.
    End,
}
