//! HTTP/2 frames and header blocks as bytes, so that they can be wrong.

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes to send, one frame behind the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frames(pub(crate) Vec<u8>);

impl Frames {
    pub(crate) fn new() -> Self {
        Frames::default()
    }

    /// A frame whose length is that of its payload.
    pub(crate) fn frame(mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        self.0.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
        self.0.extend_from_slice(&[kind, flags]);
        self.0.extend_from_slice(&stream.to_be_bytes());
        self.0.extend_from_slice(payload);
        self
    }

    /// One setting.
    pub(crate) fn setting(self, key: u16, value: u32) -> Self {
        let payload = [&key.to_be_bytes()[..], &value.to_be_bytes()].concat();
        self.frame(SETTINGS, 0, 0, &payload)
    }

    /// A whole header block in one frame.
    pub(crate) fn headers(self, flags: u8, stream: u32, block: &[u8]) -> Self {
        self.frame(HEADERS, END_HEADERS | flags, stream, block)
    }

    /// A request without a body.
    pub(crate) fn get(self, stream: u32, host: &str) -> Self {
        self.headers(END_STREAM, stream, &request("GET", host))
    }

    /// The head of a request with a body to come.
    pub(crate) fn post(self, stream: u32, host: &str) -> Self {
        self.headers(0, stream, &request("POST", host))
    }

    /// A PING whose answer says that the connection lives.
    pub(crate) fn ping(self) -> Self {
        self.frame(PING, 0, 0, b"are you?")
    }

    pub(crate) fn reset(self, stream: u32) -> Self {
        self.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
    }

    pub(crate) fn window(self, stream: u32, more: u32) -> Self {
        self.frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
    }
}

/// The pseudo-header fields of a request for `/`.
pub(crate) fn request(method: &str, host: &str) -> Vec<u8> {
    block(&[(":method", method), (":scheme", "https"), (":path", "/"), (":authority", host)])
}

/// A header block of literals that enter no table, without Huffman's code.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, 7, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of `bits` bits that are otherwise 0 (RFC 7541, section 5.1).
fn integer(to: &mut Vec<u8>, bits: u32, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        return to.push(value as u8);
    }
    to.push(most as u8);
    let mut left = value - most;
    while left >= 128 {
        to.push((left % 128 + 128) as u8);
        left /= 128;
    }
    to.push(left as u8);
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The head of a response with one of the statuses that have a place in the static table.
    Status(u32, u16),
    /// A head with another status.
    OtherHead(u32),
    Data(u32, usize),
    Reset(u32, u32),
    GoAway(u32),
    SettingsAck,
    Pong,
    /// The connection has ended.
    End,
}

/// Takes the next whole frame off `bytes`. `None`: it is not there yet. Frames that say nothing about a case are skipped.
pub(crate) fn next(bytes: &mut Vec<u8>) -> Option<Option<Event>> {
    let length =
        usize::from(*bytes.first()?) << 16 | usize::from(*bytes.get(1)?) << 8 | usize::from(*bytes.get(2)?);
    if bytes.len() < 9 + length {
        return None;
    }
    let frame: Vec<u8> = bytes.drain(..9 + length).collect();
    let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    let (kind, flags, stream) = (frame[3], frame[4], number(5) & 0x7fff_ffff);
    Some(match kind {
        HEADERS => Some(match frame[9] {
            first @ 0x88..=0x8e => {
                let statuses = [200, 204, 206, 304, 400, 404, 500];
                Event::Status(stream, statuses[usize::from(first - 0x88)])
            }
            _ => Event::OtherHead(stream),
        }),
        DATA => Some(Event::Data(stream, length)),
        RST_STREAM => Some(Event::Reset(stream, number(9))),
        GOAWAY => Some(Event::GoAway(number(13))),
        SETTINGS if flags & ACK != 0 => Some(Event::SettingsAck),
        PING if flags & ACK != 0 => Some(Event::Pong),
        _ => None,
    })
}
