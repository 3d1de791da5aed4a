//! Sends one command over a connection of its own, beside the session's.
//!
//! Replies come in the order of the commands. On the session's own connection a reply that takes long would stand before
//! those that are urgent when the application stops. A registry of ours accepts a session's id on any connection, and
//! binds nothing to it there (PROTOCOL section 2). A reference server does not.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::codec::FramedRead;

use registry_client::protocol::{
    Command, Line, LineCodec, MAX_CLIENT_LINE, Reply, Request, ServerLine, SessionId, SessionRef,
};

/// The registry's reply for this session; `None` where no registry answers within `limit`.
///
/// Dropping it closes the connection. The registry may carry the command out all the same.
pub(super) async fn ask(
    registry: SocketAddr,
    session: &SessionId,
    request: Request,
    limit: Duration,
) -> Option<Reply> {
    let command = Command::Request(SessionRef::Id(session.clone()), request);
    timeout(limit, exchange(registry, &command)).await.ok()?
}

async fn exchange(registry: SocketAddr, command: &Command) -> Option<Reply> {
    let mut stream = TcpStream::connect(registry).await.ok()?;
    stream.write_all(format!("{}\n", command.encode()).as_bytes()).await.ok()?;
    let mut lines = FramedRead::new(&mut stream, LineCodec::new(MAX_CLIENT_LINE));
    loop {
        let Some(Ok(Line::Text(line))) = lines.next().await else { return None };
        match ServerLine::parse(&line).ok()? {
            ServerLine::Reply(reply) => return Some(reply),
            // SHUTDOWN may come before the end of the stream.
            ServerLine::Push(_) => {}
        }
    }
}
