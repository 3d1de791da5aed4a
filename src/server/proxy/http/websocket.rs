//! Finds the ends of websocket frames (RFC 6455), so that a tunnel can be ended with a close frame between two others.

/// The longest header of a frame, in bytes.
const MAX_HEADER: usize = 14;
/// A close frame with code 1001, "going away", as a server sends it.
pub(crate) const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];
/// The same as a client sends it: masked, here with zeros.
pub(crate) const GOING_AWAY_MASKED: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// Follows one direction of a websocket from frame to frame.
#[derive(Debug, Default)]
pub(crate) struct FrameTracker {
    header: [u8; MAX_HEADER],
    /// How many bytes of the header have been seen.
    header_length: usize,
    /// How many bytes of the payload are still to come.
    payload: u64,
}

impl FrameTracker {
    /// Reads the next bytes of the stream.
    pub(crate) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let part = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= part as u64;
                bytes = &bytes[part..];
                continue;
            }
            self.header[self.header_length] = bytes[0];
            self.header_length += 1;
            bytes = &bytes[1..];
            if let Some(payload) = self.payload_length() {
                (self.payload, self.header_length) = (payload, 0);
            }
        }
    }

    /// Whether the next byte begins a frame.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.header_length == 0 && self.payload == 0
    }

    /// The payload's length, once the header is complete.
    fn payload_length(&self) -> Option<u64> {
        let second = *self.header[..self.header_length].get(1)?;
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        if self.header_length < 2 + extended + mask {
            return None;
        }
        let length = self.header[2..2 + extended].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Some(if extended == 0 { u64::from(second & 0x7f) } else { length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let bit = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match length {
            0..126 => frame.push(bit | length as u8),
            126..65536 => {
                frame.push(bit | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(bit | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(7, length + if masked { 4 } else { 0 }));
        frame
    }

    #[test]
    fn the_end_of_a_frame_is_found_however_it_is_cut() {
        for length in [0, 1, 125, 126, 127, 65535, 65536, 70000] {
            for masked in [false, true] {
                let bytes = frame(length, masked);
                for cut in [1, 2, 3, bytes.len().min(9), bytes.len() - 1] {
                    let cut = cut.min(bytes.len());
                    let mut frames = FrameTracker::default();
                    assert!(frames.is_between_frames());
                    frames.advance(&bytes[..cut]);
                    assert!(
                        !frames.is_between_frames() || cut == bytes.len(),
                        "{length} {masked} cut at {cut}"
                    );
                    frames.advance(&bytes[cut..]);
                    assert!(frames.is_between_frames(), "{length} {masked} cut at {cut}");
                    frames.advance(&[GOING_AWAY.as_slice(), &GOING_AWAY_MASKED].concat());
                    assert!(frames.is_between_frames());
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_websocket_do_not_panic() {
        let mut frames = FrameTracker::default();
        frames.advance(&[0xff; 100_000]);
    }
}
