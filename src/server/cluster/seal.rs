//! Messages on the connection between two replicas: each with its length before it and a MAC behind it (pure).
//!
//! The MAC covers the message and its number, with a key of this connection and direction ([`super::handshake`]). So nobody
//! on the way can change, leave out, repeat or reorder a message. It hides nothing: what must not be read on the way needs
//! a network of its own, as the registry's port does.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ring::hmac::{self, Key};

use registry_client::protocol::MAX_CLIENT_LINE;

/// The longest message: the longest line, with its kind and connection.
const MAX_MESSAGE: usize = MAX_CLIENT_LINE + 64;
const LENGTH: usize = 4;
const MAC: usize = 16;

/// What came is not what the other replica sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsealed {
    /// Longer than any message.
    #[error("a message of {0} bytes")]
    TooLong(usize),
    /// Its MAC is wrong.
    #[error("a message was changed on the way")]
    WrongMac,
}

/// Seals the messages of one direction.
pub(super) struct Sealer {
    key: Key,
    number: u64,
}

/// Opens them.
pub(super) struct Opener {
    key: Key,
    number: u64,
}

impl Sealer {
    pub(super) fn new(key: Key) -> Self {
        Sealer { key, number: 0 }
    }

    /// Appends the message that `write` writes.
    pub(super) fn seal(&mut self, out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
        let start = out.len();
        out.put_u32(0);
        write(out);
        let length = out.len() - start - LENGTH;
        out[start..start + LENGTH].copy_from_slice(&(length as u32).to_be_bytes());
        let tag = mac(&self.key, self.number, &out[start + LENGTH..]);
        out.put_slice(&tag.as_ref()[..MAC]);
        self.number += 1;
    }
}

impl Opener {
    pub(super) fn new(key: Key) -> Self {
        Opener { key, number: 0 }
    }

    /// Takes the next message out of `input`, if all of it is there.
    pub(super) fn open(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, Unsealed> {
        let Some(length) = input.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_MESSAGE {
            return Err(Unsealed::TooLong(length));
        }
        let whole = LENGTH + length + MAC;
        if input.len() < whole {
            input.reserve(whole - input.len());
            return Ok(None);
        }
        let mut sealed = input.split_to(whole).freeze();
        sealed.advance(LENGTH);
        let message = sealed.split_to(length);
        let expected = mac(&self.key, self.number, &message);
        if !equal(&expected.as_ref()[..MAC], &sealed) {
            return Err(Unsealed::WrongMac);
        }
        self.number += 1;
        Ok(Some(message))
    }
}

fn mac(key: &Key, number: u64, message: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(&number.to_be_bytes());
    context.update(message);
    context.sign()
}

/// Compares in a time that does not depend on where they differ.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Sealer, Opener) {
        let key = Key::new(hmac::HMAC_SHA256, b"key");
        (Sealer::new(key.clone()), Opener::new(key))
    }

    fn sealed(sealer: &mut Sealer, messages: &[&[u8]]) -> BytesMut {
        let mut out = BytesMut::new();
        messages.iter().for_each(|message| sealer.seal(&mut out, |out| out.put_slice(message)));
        out
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let (mut sealer, mut opener) = pair();
        let all = sealed(&mut sealer, &[b"one", b"", b"three"]);
        let (mut input, mut found) = (BytesMut::new(), Vec::new());
        for byte in all {
            input.put_u8(byte);
            found.extend(opener.open(&mut input).unwrap());
        }
        assert_eq!(found, [&b"one"[..], b"", b"three"]);
        assert!(input.is_empty());
    }

    #[test]
    fn whatever_is_changed_left_out_repeated_or_reordered_is_noticed() {
        let (mut sealer, _) = pair();
        let good = sealed(&mut sealer, &[b"one", b"two"]);
        let one = LENGTH + 3 + MAC;
        for at in LENGTH..one {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert_eq!(pair().1.open(&mut changed), Err(Unsealed::WrongMac), "byte {at}");
        }
        let without_the_first = &mut good.clone().split_off(one);
        assert_eq!(pair().1.open(without_the_first), Err(Unsealed::WrongMac));
        let mut opener = pair().1;
        let mut twice = good.clone();
        assert!(opener.open(&mut twice).unwrap().is_some());
        assert_eq!(opener.open(&mut good.clone()), Err(Unsealed::WrongMac), "the first again");
    }

    #[test]
    fn a_length_that_no_message_has_is_refused_before_anything_is_kept() {
        let mut input = BytesMut::from(&[0xff; 4][..]);
        assert_eq!(pair().1.open(&mut input), Err(Unsealed::TooLong(0xffff_ffff)));
        assert!(input.capacity() < 1024);
    }
}
