//! Whether an error says that the backend has not looked at a request. Pure.

use std::error::Error;

/// Whether the backend promises that it has done nothing with the request: it refused the stream, or takes leave before it
/// (RFC 9113 section 8.7). Such a request may be sent again, whatever its method.
pub(crate) fn is_unprocessed(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            // A GOAWAY with another reason also ends streams before the one that it names.
            let has_left = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            return error.is_remote() && (is_refused || has_left);
        }
        cause = error.source();
    }
    false
}
