//! The connection between a replica and the leader: the handshake, then sealed messages in both directions.
//!
//! Reading and writing are halves that do not wait for each other: two replicas that both waited to write before they read
//! would wait for ever.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::frame::UnknownMessage;
use super::handshake::{MAX_PART, Nonce, Parties, Refused, Secrets};
use super::seal::{Opener, Sealer, Unsealed};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// How much is written at once.
const WRITE_AT_ONCE: usize = 64 * 1024;

/// Why a link did not come about, or broke.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("{0}")]
    Unsealed(#[from] Unsealed),
    #[error("{0}")]
    Unknown(#[from] UnknownMessage),
    #[error("the other server closed the connection")]
    Closed,
    #[error("the other server said nothing for {0:?}")]
    Silent(Duration),
    #[error("the other server does not read")]
    Full,
    #[error("nothing proves that this server still leads")]
    Unproven,
    #[error("the system has no random bits")]
    NoRandomness,
}

/// The end of a link that messages come from.
pub(super) struct LinkReader {
    half: OwnedReadHalf,
    opener: Opener,
    input: BytesMut,
    silence: Duration,
}

/// The end that they are written to.
pub(super) struct LinkWriter {
    half: OwnedWriteHalf,
    sealer: Sealer,
    output: BytesMut,
}

/// Connects to the leader at `address` and shows that we are a replica. A link that is silent for `silence` is broken.
pub(super) async fn dial(
    address: &str,
    secrets: &Secrets,
    parties: &Parties,
    silence: Duration,
) -> Result<(LinkReader, LinkWriter), LinkError> {
    let connected = timeout(HANDSHAKE_TIMEOUT, TcpStream::connect(address)).await;
    let mut stream = connected.map_err(|_| LinkError::Silent(HANDSHAKE_TIMEOUT))??;
    stream.set_nodelay(true)?;
    let nonce = nonce()?;
    let greeting = secrets.greet(parties, nonce);
    let shaking = async {
        write_part(&mut stream, greeting.bytes()).await?;
        let challenge = read_part(&mut stream).await?;
        let (proof, keys) = greeting.answer(&challenge)?;
        write_part(&mut stream, &proof).await?;
        Ok::<_, LinkError>(keys)
    };
    let keys =
        timeout(HANDSHAKE_TIMEOUT, shaking).await.map_err(|_| LinkError::Silent(HANDSHAKE_TIMEOUT))??;
    Ok(split(stream, Opener::new(keys.from_leader), Sealer::new(keys.to_leader), silence))
}

/// Lets a replica in that connected to us, whose name is `name` and who lead in the epoch `leads`.
pub(super) async fn admit(
    mut stream: TcpStream,
    secrets: &Secrets,
    name: &str,
    leads: Option<u64>,
    silence: Duration,
) -> Result<(Parties, LinkReader, LinkWriter), LinkError> {
    stream.set_nodelay(true)?;
    let nonce = nonce()?;
    let shaking = async {
        let greeting = read_part(&mut stream).await?;
        let (challenge, waiting) = match secrets.challenge(name, leads, &greeting, nonce) {
            Ok(challenge) => challenge,
            Err(refused) => {
                write_part(&mut stream, &refused.encode()).await?;
                return Err(refused.into());
            }
        };
        write_part(&mut stream, &challenge).await?;
        let keys = waiting.check(&read_part(&mut stream).await?)?;
        Ok::<_, LinkError>((waiting.parties().clone(), keys))
    };
    let (parties, keys) =
        timeout(HANDSHAKE_TIMEOUT, shaking).await.map_err(|_| LinkError::Silent(HANDSHAKE_TIMEOUT))??;
    let (reader, writer) = split(stream, Opener::new(keys.to_leader), Sealer::new(keys.from_leader), silence);
    Ok((parties, reader, writer))
}

fn split(stream: TcpStream, opener: Opener, sealer: Sealer, silence: Duration) -> (LinkReader, LinkWriter) {
    let (reader, writer) = stream.into_split();
    (
        LinkReader { half: reader, opener, input: BytesMut::new(), silence },
        LinkWriter { half: writer, sealer, output: BytesMut::new() },
    )
}

impl LinkReader {
    /// The next message. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Bytes, LinkError> {
        loop {
            if let Some(message) = self.opener.open(&mut self.input)? {
                return Ok(message);
            }
            let read = timeout(self.silence, self.half.read_buf(&mut self.input)).await;
            if read.map_err(|_| LinkError::Silent(self.silence))?? == 0 {
                return Err(LinkError::Closed);
            }
        }
    }
}

impl LinkWriter {
    /// Queues the message that `write` writes. Returns whether there is so much that it should be written now.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut BytesMut)) -> bool {
        self.sealer.seal(&mut self.output, write);
        self.output.len() >= WRITE_AT_ONCE
    }

    /// Writes what is queued.
    pub(super) async fn flush(&mut self) -> Result<(), LinkError> {
        Ok(self.half.write_all_buf(&mut self.output).await?)
    }
}

async fn write_part(stream: &mut TcpStream, part: &[u8]) -> io::Result<()> {
    let mut bytes = (part.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(part);
    stream.write_all(&bytes).await
}

async fn read_part(stream: &mut TcpStream) -> Result<Vec<u8>, LinkError> {
    let length = stream.read_u16().await? as usize;
    if length > MAX_PART {
        return Err(Refused::Malformed.into());
    }
    let mut part = vec![0; length];
    stream.read_exact(&mut part).await?;
    Ok(part)
}

fn nonce() -> Result<Nonce, LinkError> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|_| LinkError::NoRandomness)?;
    Ok(nonce)
}
