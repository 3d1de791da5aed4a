//! Whether an error says that the backend has not looked at a request. Pure.

use crate::server::proxy::http::flaw::http2_cause;

/// Whether the backend promises that it has done nothing with the request: it refused the stream, or takes leave before it
/// (RFC 9113 section 8.7). Such a request may be sent again, whatever its method.
pub(crate) fn is_unprocessed(error: &hyper::Error) -> bool {
    http2_cause(error).is_some_and(|error| {
        let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // A GOAWAY with another reason also ends streams before the one that it names.
        let has_left = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        error.is_remote() && (is_refused || has_left)
    })
}
