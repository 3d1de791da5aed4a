//! As much of websockets (RFC 6455) as it takes to end them politely: where a frame ends, and what to say then.

/// The longest head of a frame.
const MAX_HEAD: usize = 14;
/// Close with code 1001, "going away", as a server says it.
pub(super) const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];
/// The same as a client says it: masked, here with zeros.
pub(super) const GOING_AWAY_MASKED: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// Follows one direction of a websocket from frame to frame.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; MAX_HEAD],
    /// How much of the head is there.
    have: usize,
    /// How much of the payload is to come.
    payload: u64,
}

impl Frames {
    /// Takes note of what went by.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let part = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= part as u64;
                bytes = &bytes[part..];
                continue;
            }
            self.head[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if let Some(payload) = self.announced() {
                (self.payload, self.have) = (payload, 0);
            }
        }
    }

    /// Whether a frame may begin here.
    pub(super) fn between(&self) -> bool {
        self.have == 0 && self.payload == 0
    }

    /// The payload's length, once the head is whole.
    fn announced(&self) -> Option<u64> {
        let second = *self.head[..self.have].get(1)?;
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        if self.have < 2 + extended + mask {
            return None;
        }
        let length = self.head[2..2 + extended].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
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
    fn a_frame_ends_where_it_says_however_it_is_cut() {
        for length in [0, 1, 125, 126, 127, 65535, 65536, 70000] {
            for masked in [false, true] {
                let bytes = frame(length, masked);
                for cut in [1, 2, 3, bytes.len().min(9), bytes.len() - 1] {
                    let cut = cut.min(bytes.len());
                    let mut frames = Frames::default();
                    assert!(frames.between());
                    frames.pass(&bytes[..cut]);
                    assert!(!frames.between() || cut == bytes.len(), "{length} {masked} cut at {cut}");
                    frames.pass(&bytes[cut..]);
                    assert!(frames.between(), "{length} {masked} cut at {cut}");
                    frames.pass(&[GOING_AWAY.as_slice(), &GOING_AWAY_MASKED].concat());
                    assert!(frames.between());
                }
            }
        }
    }

    #[test]
    fn what_is_no_websocket_is_survived() {
        let mut frames = Frames::default();
        frames.pass(&[0xff; 100_000]);
    }
}
