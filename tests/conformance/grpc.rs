//! gRPC with tonic as client and server: the four kinds of calls, what they end with, deadlines and cancellation, through
//! both listeners.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut};
use futures_util::stream::{self, BoxStream, StreamExt};
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tower::{Service, service_fn};

use crate::programs::wait_until;
use crate::stage::{HOST, Proxy, TLS_HOST, certificate, ours};

/// Messages are bytes, so that nothing has to be generated.
#[derive(Debug, Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Plain;
    type Decoder = Plain;

    fn encoder(&mut self) -> Plain {
        Plain
    }

    fn decoder(&mut self) -> Plain {
        Plain
    }
}

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

type Messages = BoxStream<'static, Result<Vec<u8>, Status>>;

/// The service `test.Echo`.
#[derive(Clone, Default)]
struct Echo {
    /// How many calls without an end are going on.
    endless: Arc<AtomicUsize>,
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

/// Counts one call less when the server lets go of it.
struct Going(Arc<AtomicUsize>);

impl Drop for Going {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Echo {
    /// The answer to one message: as many messages as its bytes, each a byte.
    fn bytes_of(message: Vec<u8>) -> Messages {
        stream::iter(message).map(|byte| Ok(vec![byte])).boxed()
    }

    fn endless(&self) -> Messages {
        self.endless.fetch_add(1, Ordering::SeqCst);
        let going = Going(Arc::clone(&self.endless));
        stream::unfold(going, |going| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok(b"more".to_vec()), going))
        })
        .boxed()
    }
}

async fn unary(request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Status> {
    if request.get_ref() == b"refuse" {
        let mut status = Status::with_details(Code::FailedPrecondition, "it is fünf", vec![1, 2, 3].into());
        status.metadata_mut().insert("x-why", MetadataValue::from_static("so"));
        return Err(status);
    }
    let mut response = Response::new(request.get_ref().clone());
    if let Some(given) = request.metadata().get_bin("x-token-bin") {
        response.metadata_mut().insert_bin("x-token-bin", given.clone());
    }
    Ok(response)
}

async fn sum(request: Request<Streaming<Vec<u8>>>) -> Result<Response<Vec<u8>>, Status> {
    let (mut messages, mut length) = (request.into_inner(), 0_usize);
    while let Some(message) = messages.message().await? {
        length += message.len();
    }
    Ok(Response::new(length.to_string().into_bytes()))
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut grpc = tonic::server::Grpc::new(Plain);
        let echo = self.clone();
        Box::pin(async move {
            let answer = |messages: Messages| -> Ready<Result<Response<Messages>, Status>> {
                ready(Ok(Response::new(messages)))
            };
            Ok(match request.uri().path() {
                "/test.Echo/Unary" => grpc.unary(service_fn(unary), request).await,
                "/test.Echo/Sum" => grpc.client_streaming(service_fn(sum), request).await,
                "/test.Echo/Bytes" => {
                    let of = |request: Request<Vec<u8>>| answer(Echo::bytes_of(request.into_inner()));
                    grpc.server_streaming(service_fn(of), request).await
                }
                "/test.Echo/Endless" => {
                    let of = move |_: Request<Vec<u8>>| answer(echo.endless());
                    grpc.server_streaming(service_fn(of), request).await
                }
                "/test.Echo/Never" => {
                    let of = move |_: Request<Vec<u8>>| {
                        echo.endless.fetch_add(1, Ordering::SeqCst);
                        let going = Going(Arc::clone(&echo.endless));
                        async move {
                            let _going = going;
                            std::future::pending::<Result<Response<Vec<u8>>, Status>>().await
                        }
                    };
                    grpc.unary(service_fn(of), request).await
                }
                "/test.Echo/Both" => {
                    let of = |request: Request<Streaming<Vec<u8>>>| answer(request.into_inner().boxed());
                    grpc.streaming(service_fn(of), request).await
                }
                _ => Status::unimplemented("no such call").into_http(),
            })
        })
    }
}

/// The proxy in front of a server of the real library, and clients of it through both listeners.
struct World {
    echo: Echo,
    /// With the listener's name.
    channels: Vec<(&'static str, Channel)>,
    _proxy: Proxy,
    _files: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let echo = Echo::default();
        let incoming = stream::unfold(listener, |listener| async {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        tokio::spawn(Server::builder().add_service(echo.clone()).serve_with_incoming(incoming));
        let files = tempfile::tempdir().unwrap();
        let authority = certificate(files.path());
        let proxy = ours(files.path(), &format!("h2c://{address}"), "");
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authority.pem()))
            .domain_name(TLS_HOST);
        let at = |scheme: &str, host: &str, to: SocketAddr| {
            let origin: http::Uri = format!("{scheme}://{host}").parse().unwrap();
            Endpoint::from_shared(format!("{scheme}://{to}")).unwrap().origin(origin)
        };
        let plain = at("http", HOST, proxy.http).connect_lazy();
        let secure = at("https", TLS_HOST, proxy.https).tls_config(tls).unwrap().connect_lazy();
        let channels = vec![("plain", plain), ("TLS", secure)];
        let world = World { echo, channels, _proxy: proxy, _files: files };
        for (name, channel) in &world.channels {
            let deadline = Instant::now() + Duration::from_secs(20);
            while let Err(error) = call(channel, "Unary", b"there?").await {
                assert!(Instant::now() < deadline, "{name}: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        world
    }
}

fn path(call: &str) -> PathAndQuery {
    format!("/test.Echo/{call}").parse().unwrap()
}

async fn client(channel: &Channel) -> tonic::client::Grpc<Channel> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    grpc
}

async fn call(channel: &Channel, name: &str, message: &[u8]) -> Result<Response<Vec<u8>>, Status> {
    client(channel).await.unary(Request::new(message.to_vec()), path(name), Plain).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_call_goes_through_both_listeners() {
    let world = World::new().await;
    for (name, channel) in &world.channels {
        let large = vec![7; 3 << 20];
        for message in [&b""[..], b"hello", &large] {
            let answer = call(channel, "Unary", message).await.unwrap();
            assert!(answer.get_ref() == message, "{name}: {} bytes", message.len());
        }
        let parts = stream::iter((0..500).map(|_| vec![1; 1000]));
        let sum = client(channel).await.client_streaming(Request::new(parts), path("Sum"), Plain).await;
        assert_eq!(sum.unwrap().into_inner(), b"500000", "{name}");

        let bytes: Vec<u8> = (0..1000).map(|number| (number % 251) as u8).collect();
        let request = Request::new(bytes.clone());
        let messages = client(channel).await.server_streaming(request, path("Bytes"), Plain).await.unwrap();
        let got: Vec<Vec<u8>> = messages.into_inner().map(Result::unwrap).collect().await;
        assert_eq!(got.concat(), bytes, "{name}");
    }
}

/// Each message waits for the answer to the one before, so nothing may be held back on the way.
#[tokio::test(flavor = "multi_thread")]
async fn messages_go_to_and_fro_while_the_call_lasts() {
    let world = World::new().await;
    for (name, channel) in &world.channels {
        let (say, said) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
        let said = stream::unfold(said, |mut said| async { Some((said.recv().await?, said)) });
        let both = client(channel).await.streaming(Request::new(said), path("Both"), Plain).await.unwrap();
        let mut heard = both.into_inner();
        for number in 0..100 {
            say.send(vec![number]).unwrap();
            assert_eq!(heard.message().await.unwrap(), Some(vec![number]), "{name}");
        }
        drop(say);
        assert_eq!(heard.message().await.unwrap(), None, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_ends_with_arrives_as_it_was_sent() {
    let world = World::new().await;
    for (name, channel) in &world.channels {
        let status = call(channel, "Unary", b"refuse").await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "it is fünf"), "{name}");
        assert_eq!(status.details(), [1, 2, 3], "{name}");
        assert_eq!(status.metadata().get("x-why").unwrap(), "so", "{name}");
        let status = call(channel, "Nothing", b"").await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{name}");

        let mut request = Request::new(b"x".to_vec());
        let token = MetadataValue::from_bytes(&[0, 255, 10]);
        request.metadata_mut().insert_bin("x-token-bin", token.clone());
        let answer = client(channel).await.unary(request, path("Unary"), Plain).await.unwrap();
        let answer: Response<Vec<u8>> = answer;
        assert_eq!(answer.metadata().get_bin("x-token-bin"), Some(&token), "{name}");
    }
}

/// By the client's deadline, or because it lets go: the server hears of both.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_an_end_is_over_when_the_client_says_so() {
    let world = World::new().await;
    let is_over = || world.echo.endless.load(Ordering::SeqCst) == 0;
    for (name, channel) in &world.channels {
        let endless = Request::new(Vec::new());
        let messages = client(channel).await.server_streaming(endless, path("Endless"), Plain).await;
        let mut let_go: Streaming<Vec<u8>> = messages.unwrap().into_inner();
        assert_eq!(let_go.message().await.unwrap(), Some(b"more".to_vec()), "{name}");
        drop(let_go);
        tokio::task::block_in_place(|| wait_until("the server hears that the client let go", is_over));

        let mut limited = Request::new(Vec::new());
        limited.set_timeout(Duration::from_millis(300));
        let ended: Result<Response<Vec<u8>>, Status> =
            client(channel).await.unary(limited, path("Never"), Plain).await;
        let status = ended.unwrap_err();
        assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{name}: {status}");
        tokio::task::block_in_place(|| wait_until("the server hears of the deadline", is_over));
    }
}

/// As many calls at once as a client's connection takes, and then some.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_calls_at_once_are_all_answered() {
    let world = World::new().await;
    for (name, channel) in &world.channels {
        let calls = (0..500_u32).map(|number| async move {
            let message = number.to_be_bytes();
            let answer = call(channel, "Unary", &message).await;
            answer.is_ok_and(|answer| answer.get_ref() == &message)
        });
        let answered = futures_util::future::join_all(calls).await.into_iter().filter(|good| *good).count();
        assert_eq!(answered, 500, "{name}");
    }
}
