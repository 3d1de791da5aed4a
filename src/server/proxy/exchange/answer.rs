//! An answer of the proxy instead of a backend's: a page, with what a guard adds to it.

use bytes::Bytes;
use http::Response;
use http::header::{HeaderValue, LOCATION};

use crate::server::proxy::http::page::Page;

use super::body::ResponseBody;
use super::record::Record;
use super::response;

/// Why a request goes to no backend.
pub(super) enum Answer {
    Page(Page),
    /// The route's host is another one, and this is the same address there.
    Redirect(Box<HeaderValue>),
    /// Whoever was asked whether the request may pass answers it.
    Response(Box<Response<Bytes>>),
}

impl From<Page> for Answer {
    fn from(page: Page) -> Self {
        Answer::Page(page)
    }
}

impl Answer {
    pub(super) fn into_response(self, record: Box<Record>) -> Response<ResponseBody> {
        match self {
            Answer::Page(page) => response::page(page, record),
            Answer::Redirect(location) => {
                let mut response = response::page(Page::RedirectToHost, record);
                response.headers_mut().insert(LOCATION, *location);
                response
            }
            Answer::Response(whole) => response::whole(*whole, record),
        }
    }
}
