//! Bounded lines (PROTOCOL section 1), against a model that has the whole stream before it.

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use registry_client::protocol::{Line, LineCodec, MAX_CLIENT_LINE, MAX_LINE};
use tokio_util::codec::Decoder;

use super::strategies::cases;

/// Reads `chunks` as they come from a socket, then the end of the stream.
fn read<'a>(max: usize, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Line> {
    let (mut codec, mut buffer, mut lines) = (LineCodec::new(max), BytesMut::new(), Vec::new());
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        while let Some(line) = codec.decode(&mut buffer).unwrap() {
            lines.push(line);
        }
        assert!(buffer.len() <= max + 1, "{} bytes are kept of a line of at most {max}", buffer.len());
    }
    while let Some(line) = codec.decode_eof(&mut buffer).unwrap() {
        lines.push(line);
    }
    assert!(buffer.is_empty());
    lines
}

/// What the same stream means, said as simply as possible.
fn model(max: usize, stream: &[u8]) -> Vec<Line> {
    let lines = stream.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = |line: &[u8]| match std::str::from_utf8(line) {
        _ if line.len() > max => Line::TooLong,
        Ok(text) => Line::Text(text.to_owned()),
        Err(_) => Line::NotUtf8,
    };
    lines.filter(|text| !text.is_empty()).map(line).collect()
}

/// Streams in which everything that matters to a line lies close together.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "PING\\|[a-z]{0,6}".prop_map(String::into_bytes),
        "[xäµ😀]{0,14}".prop_map(String::into_bytes),
        Just(b"\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\0".to_vec()),
        vec(any::<u8>(), 0..5),
    ];
    vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn a_stream_means_the_same_wherever_it_is_split(stream in stream(), max in 1..20usize) {
        let whole = model(max, &stream);
        prop_assert_eq!(&read(max, [&stream[..]]), &whole);
        for at in 0..=stream.len() {
            let (first, second) = stream.split_at(at);
            prop_assert_eq!(&read(max, [first, second]), &whole, "split at {}", at);
        }
        prop_assert_eq!(&read(max, stream.chunks(1)), &whole, "byte by byte");
        prop_assert_eq!(&read(max, stream.chunks(3)), &whole, "by three");
    }
}

#[test]
fn a_line_of_exactly_the_limit_is_read_and_one_byte_more_is_not() {
    for max in [MAX_LINE, MAX_CLIENT_LINE] {
        for end in ["\n", "\r\n", ""] {
            let exact = format!("{}{end}", "x".repeat(max));
            let more = format!("x{exact}");
            for chunk in [1_000, 65_536, usize::MAX] {
                let lines = read(max, exact.as_bytes().chunks(chunk));
                assert!(matches!(&lines[..], [Line::Text(text)] if text.len() == max), "{end:?} by {chunk}");
                assert_eq!(read(max, more.as_bytes().chunks(chunk)), [Line::TooLong], "{end:?} by {chunk}");
            }
        }
    }
}

#[test]
fn the_limit_counts_bytes_and_not_characters() {
    assert_eq!(read(4, ["ää\n".as_bytes()]), [Line::Text("ää".to_owned())]);
    assert_eq!(read(3, ["ää\n".as_bytes()]), [Line::TooLong]);
}

#[test]
fn only_one_carriage_return_is_dropped_and_only_at_the_end() {
    assert_eq!(read(9, [&b"a\rb\r\r\n"[..]]), [Line::Text("a\rb\r".to_owned())]);
}

#[test]
fn after_a_line_that_is_too_long_the_next_one_is_read() {
    let stream = [&[b'x'; 300_000][..], b"\nPING|S\n", &[b'y'; 70_000], b"\r\nPING|S"].concat();
    let ping = || Line::Text("PING|S".to_owned());
    assert_eq!(read(MAX_LINE, stream.chunks(4_096)), [Line::TooLong, ping(), Line::TooLong, ping()]);
}

#[test]
fn a_too_long_line_is_reported_once_though_the_stream_ends_in_it() {
    assert_eq!(read(8, [&[b'x'; 100][..]]), [Line::TooLong]);
    assert_eq!(read(8, [&[b'x'; 100][..], b"", b"\r"]), [Line::TooLong]);
    assert_eq!(read(8, [&[b'x'; 100][..], b"\n"]), [Line::TooLong]);
}

#[test]
fn an_endless_line_costs_no_more_memory_than_the_longest() {
    let (mut codec, mut buffer) = (LineCodec::new(MAX_LINE), BytesMut::new());
    for _ in 0..2_000 {
        // As a framed reader does it: room for one more read, then the read.
        buffer.reserve(8 * 1024);
        buffer.extend_from_slice(&[b'x'; 8 * 1024]);
        assert_eq!(codec.decode(&mut buffer).unwrap(), None);
        assert!(buffer.len() <= MAX_LINE + 1);
        assert!(buffer.capacity() <= 4 * MAX_LINE, "{} bytes", buffer.capacity());
    }
}

#[test]
fn a_million_empty_lines_are_nothing() {
    assert_eq!(read(8, vec![&b"\n\r\n"[..]; 500_000]), []);
}
