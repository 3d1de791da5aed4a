//! Compresses a response's body while it streams. What the backend has sent so far is flushed to the client before the
//! proxy waits for more.

use std::io::{self, Write};
use std::pin::Pin;

use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::HeaderMap;
use hyper::body::{Body, Frame};

use crate::server::proxy::context::EncoderSlot;
use crate::server::proxy::http::coding::Coding;

use super::backend_body::{BackendBody, BodyError};

/// How many compressed bytes are collected before they are sent, if the backend is fast enough.
const CHUNK: usize = 16 * 1024;
/// How many bytes are read in one poll before other tasks of the thread get their turn.
const MAX_READ: usize = 128 * 1024;
/// Levels that compress about as fast as a fast network sends.
const BROTLI_LEVEL: u32 = 4;
const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 5;
/// The base-2 logarithm of the window in bytes, which bounds the memory of each response.
const WINDOW_BITS: u32 = 18;

/// A backend's body, compressed.
pub(crate) struct CompressedBody {
    body: BackendBody,
    coding: Coding,
    /// `None`: compression has not begun, or is over.
    encoder: Option<Encoder>,
    is_over: bool,
    /// The encoder holds data that it has not put out.
    needs_flush: bool,
    /// The last part was returned because the backend's body is pending; return Pending next.
    is_pending: bool,
    trailers: Option<HeaderMap>,
    _slot: EncoderSlot,
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

    /// The compressed bytes that have not been sent.
    fn output(&mut self) -> &mut Vec<u8> {
        match self {
            Encoder::Brotli(encoder) => encoder.get_mut(),
            Encoder::Zstd(encoder) => encoder.get_mut(),
            Encoder::Gzip(encoder) => encoder.get_mut(),
        }
    }

    /// Ends the stream and returns the remaining bytes.
    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Brotli(encoder) => Ok(encoder.into_inner()),
            Encoder::Zstd(encoder) => encoder.finish(),
            Encoder::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl CompressedBody {
    pub(super) fn new(body: BackendBody, coding: Coding, slot: EncoderSlot) -> Self {
        CompressedBody {
            body,
            coding,
            encoder: None,
            is_over: false,
            needs_flush: false,
            is_pending: false,
            trailers: None,
            _slot: slot,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over && self.trailers.is_none()
    }

    /// Returns the next part; `Ready(None)` after the last one.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_over {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if std::mem::take(&mut self.is_pending) {
            // Pending makes hyper flush the last part. The backend's wake-up may have come meanwhile, while hyper waited for
            // the client to take that part, so the backend is asked again at once.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut encoder = match self.encoder.take().map_or_else(|| Encoder::new(self.coding), Ok) {
            Ok(encoder) => encoder,
            Err(error) => return Poll::Ready(Some(Err(BodyError::Compression(error)))),
        };
        match self.compress(&mut encoder, cx) {
            Poll::Ready(Ok(Step::End)) => {
                self.is_over = true;
                let rest = encoder.finish().map_err(BodyError::Compression);
                Poll::Ready(Some(rest.map(|rest| Frame::data(Bytes::from(rest)))))
            }
            Poll::Ready(Ok(step)) => {
                self.is_pending = matches!(step, Step::Pending);
                let part = std::mem::take(encoder.output());
                self.encoder = Some(encoder);
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(part)))))
            }
            Poll::Ready(Err(error)) => {
                self.is_over = true;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => {
                self.encoder = Some(encoder);
                Poll::Pending
            }
        }
    }

    /// Reads and compresses until there is a part to send, or the backend's body is pending or over.
    fn compress(&mut self, encoder: &mut Encoder, cx: &mut Context<'_>) -> Poll<Result<Step, BodyError>> {
        let mut read = 0;
        loop {
            let step = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        read += data.len();
                        self.needs_flush = true;
                        encoder.writer().write_all(&data).map(|()| Step::More)
                    }
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        Ok(Step::End)
                    }
                },
                Poll::Ready(None) => Ok(Step::End),
                Poll::Pending if self.needs_flush => {
                    self.needs_flush = false;
                    encoder.writer().flush().map(|()| Step::Pending)
                }
                Poll::Pending => Ok(Step::Pending),
            };
            match step.map_err(BodyError::Compression)? {
                Step::End => return Poll::Ready(Ok(Step::End)),
                Step::More if encoder.output().len() < CHUNK && read < MAX_READ => {}
                step if !encoder.output().is_empty() => return Poll::Ready(Ok(step)),
                Step::Pending => return Poll::Pending,
                Step::More => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }
}

/// The state of the backend's body after a poll.
enum Step {
    /// It gave a part.
    More,
    /// It has no part now.
    Pending,
    /// It is over.
    End,
}
