//! Websockets with tungstenite as client and server, through both listeners: what one end says, the other one hears.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::stage::{HOST, Proxy, TLS_HOST, certificate, client_config, ours};

const PATIENCE: Duration = Duration::from_secs(10);

/// Says everything again that it hears, and `bye` when it is asked to close.
async fn echo(stream: TcpStream) -> Result<(), Error> {
    let mut socket = accept_async(stream).await?;
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) if text == "close, please" => {
                let frame = CloseFrame { code: CloseCode::Library(4321), reason: "bye".into() };
                socket.close(Some(frame)).await?;
            }
            message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).await?,
            // tungstenite answers pings and closes by itself.
            _ => {}
        }
    }
    Ok(())
}

struct World {
    proxy: Proxy,
    tls: Arc<ClientConfig>,
    _files: tempfile::TempDir,
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

type Socket = WebSocketStream<Box<dyn Wire>>;

impl World {
    async fn new() -> World {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream));
            }
        });
        let files = tempfile::tempdir().unwrap();
        let tls = client_config(&certificate(files.path()), b"http/1.1");
        let proxy = ours(files.path(), &backend, "    websocket: true\n");
        World { proxy, tls, _files: files }
    }

    /// A socket through each listener, with the listener's name. The proxy learns its route a moment after it listens.
    async fn sockets(&self) -> [(&'static str, Socket); 2] {
        [("plain", self.socket(false).await), ("TLS", self.socket(true).await)]
    }

    async fn socket(&self, is_secure: bool) -> Socket {
        let connect = async {
            loop {
                let (wire, url): (Box<dyn Wire>, _) = if is_secure {
                    let stream = TcpStream::connect(self.proxy.https).await.unwrap();
                    let name = ServerName::try_from(TLS_HOST).unwrap();
                    let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.unwrap();
                    (Box::new(tls), format!("wss://{TLS_HOST}/socket"))
                } else {
                    (
                        Box::new(TcpStream::connect(self.proxy.http).await.unwrap()),
                        format!("ws://{HOST}/socket"),
                    )
                };
                if let Ok((socket, _)) = client_async(url, wire).await {
                    return socket;
                }
            }
        };
        tokio::time::timeout(PATIENCE, connect).await.expect("the route is there")
    }
}

async fn heard(socket: &mut Socket) -> Message {
    let next = tokio::time::timeout(PATIENCE, socket.next()).await.expect("an answer comes");
    next.expect("the connection is open").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_every_size_come_back_as_they_were_sent() {
    let world = World::new().await;
    for (name, mut socket) in world.sockets().await {
        // The lengths at which the form of a frame's length changes, and what fills more than one buffer.
        for length in [0, 1, 125, 126, 127, 128, 65_535, 65_536, 65_537, 1 << 20] {
            let text = Message::text("ü".repeat(length / 2));
            let binary = Message::binary((0..length).map(|at| at as u8).collect::<Vec<_>>());
            for message in [text, binary] {
                socket.send(message.clone()).await.unwrap();
                assert!(heard(&mut socket).await == message, "{name}: {length} bytes");
            }
        }
        for number in 0..1000_u32 {
            socket.feed(Message::text(number.to_string())).await.unwrap();
        }
        socket.flush().await.unwrap();
        for number in 0..1000_u32 {
            assert_eq!(heard(&mut socket).await, Message::text(number.to_string()), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_are_one_message_and_pings_may_come_between_them() {
    let world = World::new().await;
    for (name, mut socket) in world.sockets().await {
        let parts =
            [("one ", OpCode::Data(Data::Text), false), ("two ", OpCode::Data(Data::Continue), false)];
        for (text, opcode, is_last) in parts {
            socket.send(Message::Frame(Frame::message(text, opcode, is_last))).await.unwrap();
            socket.send(Message::Ping("between".into())).await.unwrap();
            assert_eq!(heard(&mut socket).await, Message::Pong("between".into()), "{name}");
        }
        let last = Frame::message("three", OpCode::Data(Data::Continue), true);
        socket.send(Message::Frame(last)).await.unwrap();
        assert_eq!(heard(&mut socket).await, Message::text("one two three"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_end_closes_with_its_code_and_its_reason() {
    let world = World::new().await;
    for (name, mut socket) in world.sockets().await {
        socket.send(Message::text("close, please")).await.unwrap();
        let Message::Close(Some(frame)) = heard(&mut socket).await else { panic!("{name}: no close") };
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4321, "bye"), "{name}");
    }
    for (name, mut socket) in world.sockets().await {
        let frame = CloseFrame { code: CloseCode::Away, reason: "moving on".into() };
        socket.close(Some(frame.clone())).await.unwrap();
        assert_eq!(heard(&mut socket).await, Message::Close(Some(frame)), "{name}");
        let ended = tokio::time::timeout(PATIENCE, socket.next()).await.expect("the connection ends");
        assert!(ended.is_none_or(|end| end.is_err()), "{name}");
    }
}

/// The server answers what is no text with a close of its own, and the client hears its code.
#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_protocol_ends_as_the_server_says() {
    let world = World::new().await;
    for (name, mut socket) in world.sockets().await {
        let frame = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
        socket.send(Message::Frame(frame)).await.unwrap();
        let end = tokio::time::timeout(PATIENCE, socket.next()).await.expect("the connection ends");
        assert!(!matches!(end, Some(Ok(Message::Text(_) | Message::Binary(_)))), "{name}: {end:?}");
    }
}
