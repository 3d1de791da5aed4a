//! Bounded lines in and out (PROTOCOL section 1).

use bytes::{Buf, BufMut, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// The longest line between peers in bytes, without its end: the reference programs read no longer one.
pub const MAX_LINE: usize = 65_535;
/// The longest line that this client reads, in bytes, without its end.
pub const MAX_CLIENT_LINE: usize = 1024 * 1024;

/// What the codec found between two line ends. Empty lines are not reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A line, without its end.
    Text(String),
    /// A line longer than the limit. It was discarded as it came, and the stream is usable.
    TooLong,
    /// A line that is not valid UTF-8.
    NotUtf8,
}

/// Splits a stream into lines. It buffers at most the limit and one read, whatever the peer sends.
#[derive(Debug)]
pub struct LineCodec {
    max: usize,
    /// How many bytes at the start of the buffer hold no line end.
    searched: usize,
    /// The rest of a line that is too long is being discarded.
    discarding: bool,
}

impl LineCodec {
    /// A codec whose lines have at most `max` bytes, ends not counted.
    pub fn new(max: usize) -> Self {
        LineCodec { max, searched: 0, discarding: false }
    }

    /// Takes the line that ends at `end` out of the buffer. `None`: it is empty.
    fn take_line(&mut self, buffer: &mut BytesMut, end: usize) -> Option<Line> {
        self.searched = 0;
        let bytes = buffer.split_to(end);
        buffer.advance(1.min(buffer.len()));
        if std::mem::take(&mut self.discarding) {
            return Some(Line::TooLong);
        }
        let text = bytes.strip_suffix(b"\r").unwrap_or(&bytes);
        match text {
            b"" => None,
            _ if text.len() > self.max => Some(Line::TooLong),
            _ => Some(match std::str::from_utf8(text) {
                Ok(text) => Line::Text(text.to_owned()),
                Err(_) => Line::NotUtf8,
            }),
        }
    }
}

impl Decoder for LineCodec {
    type Item = Line;
    type Error = std::io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Line>, std::io::Error> {
        loop {
            let unsearched = &buffer[self.searched..];
            if let Some(at) = unsearched.iter().position(|b| *b == b'\n') {
                let end = self.searched + at;
                match self.take_line(buffer, end) {
                    Some(line) => return Ok(Some(line)),
                    None => continue,
                }
            }
            // One byte more than the limit may still be the `\r` of a line that fits.
            if self.discarding || buffer.len() > self.max + 1 {
                self.discarding = true;
                buffer.clear();
            }
            self.searched = buffer.len();
            return Ok(None);
        }
    }

    /// A last line without its end is a line all the same.
    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Line>, std::io::Error> {
        if let Some(line) = self.decode(buffer)? {
            return Ok(Some(line));
        }
        if buffer.is_empty() && !self.discarding {
            return Ok(None);
        }
        let end = buffer.len();
        Ok(self.take_line(buffer, end))
    }
}

impl Encoder<&str> for LineCodec {
    type Error = std::io::Error;

    /// Appends the line and its end.
    ///
    /// # Errors
    /// `InvalidInput` for an empty line and for one with a line end or NUL in it: a peer would not read it as one line.
    fn encode(&mut self, line: &str, buffer: &mut BytesMut) -> Result<(), std::io::Error> {
        if line.is_empty() || line.bytes().any(|b| matches!(b, b'\n' | b'\r' | 0)) {
            let reason = "an empty line, or one with a line end or NUL in it";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason));
        }
        buffer.reserve(line.len() + 1);
        buffer.put_slice(line.as_bytes());
        buffer.put_u8(b'\n');
        Ok(())
    }
}

/// Whether a line comes from a peer that speaks HTTP, because somebody confused the ports. Some HTTP servers answer a
/// malformed request with a page without a status line.
pub fn looks_like_http(line: &str) -> bool {
    let is_page = |start: &str| line.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start));
    is_page("<!doctype html")
        || is_page("<html")
        || line.starts_with("HTTP/1.")
        || line.ends_with(" HTTP/1.1")
        || line.ends_with(" HTTP/1.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(max: usize, chunks: &[&[u8]]) -> Vec<Line> {
        let (mut codec, mut buffer, mut found) = (LineCodec::new(max), BytesMut::new(), Vec::new());
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(line) = codec.decode(&mut buffer).unwrap() {
                found.push(line);
            }
        }
        while let Some(line) = codec.decode_eof(&mut buffer).unwrap() {
            found.push(line);
        }
        assert!(buffer.is_empty());
        found
    }

    fn text(text: &str) -> Line {
        Line::Text(text.to_owned())
    }

    #[test]
    fn lines_end_in_lf_or_crlf_and_empty_ones_are_ignored() {
        assert_eq!(lines(99, &[b"PING|a\r\n\n\r\nPING|b\n"]), [text("PING|a"), text("PING|b")]);
    }

    #[test]
    fn a_last_line_without_its_end_is_read() {
        assert_eq!(lines(99, &[b"PING|a\nPING|", b"b"]), [text("PING|a"), text("PING|b")]);
        assert_eq!(lines(99, &[b"PING|b\r"]), [text("PING|b")]);
    }

    #[test]
    fn a_line_of_the_greatest_length_is_read_and_a_longer_one_survived() {
        let exact = "x".repeat(8);
        assert_eq!(lines(8, &[b"xxxxxxxx\r\nok\n"]), [text(&exact), text("ok")]);
        assert_eq!(lines(8, &[b"xxxxxxxx", b"\r", b"\nok\n"]), [text(&exact), text("ok")]);
        assert_eq!(lines(8, &[b"xxxxxxxxx\nok\n"]), [Line::TooLong, text("ok")]);
        assert_eq!(lines(8, &[b"xxxxxxxxxxxxxxxxxxxx", b"xxx", b"\nok\n"]), [Line::TooLong, text("ok")]);
        assert_eq!(lines(8, &[b"xxxxxxxxxxxxxxxxxxxx"]), [Line::TooLong]);
    }

    #[test]
    fn a_line_that_is_no_utf8_is_reported_and_survived() {
        assert_eq!(lines(99, &[b"\xff\xfe\nok\n"]), [Line::NotUtf8, text("ok")]);
    }

    #[test]
    fn what_would_be_read_as_something_else_is_not_written() {
        let (mut codec, mut buffer) = (LineCodec::new(99), BytesMut::new());
        for refused in ["", "PING|a\nPING|b", "PING|a\r", "PING|a\0"] {
            assert!(codec.encode(refused, &mut buffer).is_err(), "{refused:?}");
        }
        assert!(buffer.is_empty());
        codec.encode("PING|a", &mut buffer).unwrap();
        assert_eq!(buffer, "PING|a\n");
    }

    #[test]
    fn an_endless_line_takes_bounded_memory() {
        let (mut codec, mut buffer) = (LineCodec::new(1000), BytesMut::new());
        for _ in 0..10_000 {
            buffer.extend_from_slice(&[b'x'; 1000]);
            assert_eq!(codec.decode(&mut buffer).unwrap(), None);
            assert!(buffer.len() <= 2001);
        }
    }

    #[test]
    fn a_peer_that_speaks_http_is_recognised() {
        assert!(looks_like_http("GET / HTTP/1.1"));
        assert!(looks_like_http("HTTP/1.1 400 Bad Request"));
        assert!(looks_like_http("<!DOCTYPE HTML>") && looks_like_http("<html><body>"));
        assert!(!looks_like_http("PING|S"));
    }
}
