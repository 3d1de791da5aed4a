//! Why a backend's response is no HTTP. Pure.

use std::error::Error;
use std::fmt;

use super::framing::FramingError;

/// What is wrong with a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    HeadTooLarge,
    Status,
    Version,
    HeaderLine,
    Length,
    TransferCoding,
    /// It switches to another protocol without being asked, or does not say to which.
    Switch,
    /// A frame or header block of HTTP/2 that is malformed or too large.
    Http2,
    Other,
}

impl Flaw {
    /// What hyper could not read, which it tells in words only. `None`: the error is about something else.
    pub(crate) fn of(error: &hyper::Error) -> Option<Self> {
        if let Some(http2) = http2_cause(error) {
            let is_ours =
                http2.is_library() && http2.reason().is_some_and(|reason| reason != h2::Reason::NO_ERROR);
            return is_ours.then_some(Flaw::Http2);
        }
        if !error.is_parse() {
            return None;
        }
        if error.is_parse_too_large() {
            return Some(Flaw::HeadTooLarge);
        }
        let words = error.to_string();
        let known = [
            ("content-length", Flaw::Length),
            ("transfer-encoding", Flaw::TransferCoding),
            ("header", Flaw::HeaderLine),
            ("status", Flaw::Status),
            ("version", Flaw::Version),
        ];
        let found = known.into_iter().find(|(word, _)| words.contains(word));
        Some(found.map_or(Flaw::Other, |(_, flaw)| flaw))
    }
}

/// Why a stream of HTTP/2 has ended, or its connection.
pub(crate) fn http2_cause(error: &hyper::Error) -> Option<&h2::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

impl From<FramingError> for Flaw {
    fn from(error: FramingError) -> Self {
        match error {
            FramingError::UnknownCoding | FramingError::AmbiguousCoding => Flaw::TransferCoding,
            FramingError::AmbiguousLength => Flaw::Length,
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flaw::HeadTooLarge => "its head has more than 1,000 lines or 400 KiB",
            Flaw::Status => "its status is no number of three digits",
            Flaw::Version => "it does not begin with HTTP/1.0 or HTTP/1.1",
            Flaw::HeaderLine => "a header line is malformed",
            Flaw::Length => "its Content-Length is no number, or is there twice with different values",
            Flaw::TransferCoding => "its Transfer-Encoding is not \"chunked\" once",
            Flaw::Switch => "it switches to a protocol that nobody asked for",
            Flaw::Http2 => "its HTTP/2 frames or header fields are malformed, or have more than 64 KiB",
            Flaw::Other => "it is malformed",
        })
    }
}
