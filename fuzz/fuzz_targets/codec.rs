//! A stream as either end reads it: it means the same however it is cut, and takes bounded memory. The first
//! two bytes say how long a line may be and how the stream is cut.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use registry_client::protocol::{Line, LineCodec};
use tokio_util::codec::Decoder;

fn read<'a>(max: usize, chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Line> {
    let (mut codec, mut buffer, mut lines) = (LineCodec::new(max), BytesMut::new(), Vec::new());
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        while let Some(line) = codec.decode(&mut buffer).expect("no error") {
            lines.push(line);
        }
        assert!(buffer.len() <= max + 1);
    }
    while let Some(line) = codec.decode_eof(&mut buffer).expect("no error") {
        lines.push(line);
    }
    assert!(buffer.is_empty());
    lines
}

fuzz_target!(|input: &[u8]| {
    let [max, cut, stream @ ..] = input else { return };
    let (max, cut) = (usize::from(*max).max(1), usize::from(*cut).max(1));
    let whole = read(max, std::iter::once(stream));
    assert_eq!(read(max, stream.chunks(cut)), whole);
    assert_eq!(read(max, stream.chunks(1)), whole);
    for line in &whole {
        if let Line::Text(text) = line {
            assert!(!text.is_empty() && text.len() <= max && !text.contains('\n'));
        }
    }
});
