//! One request, from its head to the end of its response.
//!
//! | module | what it does |
//! |---|---|
//! | `redirect` | redirects from HTTP to HTTPS |
//! | `guard` | decides whether a request may go to a backend: host, claim, the claim's guards, rate limit |
//! | `auth`, `forward_auth` | whether somebody may use a route; asks somebody else |
//! | `answer` | an answer of the proxy instead of a backend's |
//! | `select`, `sticky` | finds the claim and chooses a member; the cookie that keeps a client there |
//! | `assignment` | the member that has the request, and what it learns of the outcome |
//! | `outgoing` | the request as a backend gets it |
//! | `retry` | sends it to members until one answers |
//! | `wait` | waits for a member while none is usable |
//! | `wait_for_claim` | waits for a claim after the start |
//! | `redial` | dials a member that cannot be connected to |
//! | `response` | the response as the client gets it: from a backend, a page, or an upgrade |
//! | `body`, `backend_body`, `compressed_body` | the response's body: which of several, streamed, compressed |
//! | `paced_body` | that body in parts, no faster than an HTTP/2 client takes them |
//! | `tunnel` | copies bytes after an upgrade |
//! | `record` | what logs and statistics say about the request |
//!
//! It must not know how a client's connection is accepted, read and written.

mod answer;
mod assignment;
mod auth;
mod backend_body;
mod body;
mod compressed_body;
mod forward_auth;
mod guard;
mod outgoing;
mod paced_body;
mod record;
mod redial;
mod redirect;
mod response;
mod retry;
mod select;
mod sticky;
mod tunnel;
mod wait;
mod wait_for_claim;

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Instant;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::server::proxy::client_state::connection_state::ClientConnection;
use paced_body::PacedBody;
use record::Record;
use retry::Exchange;

/// The response to come. Boxed, because hyper moves it, and it is large.
pub(crate) type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<PacedBody>, Infallible>>>>;

/// Answers a client's request with a backend's response or with a page of the proxy.
///
/// What needs no waiting is done before the future exists, so that the future need not hold it.
pub(crate) fn serve(client: Rc<ClientConnection>, mut request: Request<Incoming>) -> ResponseFuture {
    let buffer = client.buffer();
    let paced = move |body| PacedBody::new(body, buffer.as_ref());
    let mut record = Record::begin(Rc::clone(&client), &request, Instant::now());
    record.add_request_id(request.headers_mut());
    if let Some(redirect) = redirect::to_https(&client, &request) {
        return Box::pin(ready(Ok(redirect.into_response(record).map(paced))));
    }
    let mut exchange = match Exchange::prepare(client, request, &mut record) {
        Ok(exchange) => exchange,
        Err(answer) => return Box::pin(ready(Ok(answer.into_response(record).map(paced)))),
    };
    Box::pin(async move {
        let response = match exchange.run(&mut record).await {
            Ok(backend) => backend.into_response(exchange.into_upgrade(), record),
            Err(answer) => answer.into_response(record),
        };
        Ok(response.map(paced))
    })
}
