//! Why a backend's response is no HTTP. Pure.

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
    Other,
}

impl Flaw {
    /// What hyper could not read, which it tells in words only.
    pub(crate) fn of(error: &hyper::Error) -> Self {
        if error.is_parse_too_large() {
            return Flaw::HeadTooLarge;
        }
        let words = error.to_string();
        let known = [
            ("content-length", Flaw::Length),
            ("transfer-encoding", Flaw::TransferCoding),
            ("header", Flaw::HeaderLine),
            ("status", Flaw::Status),
            ("version", Flaw::Version),
        ];
        known.into_iter().find(|(word, _)| words.contains(word)).map_or(Flaw::Other, |(_, flaw)| flaw)
    }
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
            Flaw::Other => "it is malformed",
        })
    }
}
