//! What a member's own route says beyond its options. Most routes say nothing of it, which costs one look.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;

use crate::protocol::{HeaderName, HeaderValue};

/// The seldom used settings of a member's own route (SEMANTICS section 1).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extras {
    /// HEADERS_SET: what is put into every response of the member.
    pub headers: Option<Arc<ResponseHeaders>>,
}

/// Response headers in the form in which they are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHeaders(Vec<(http::HeaderName, http::HeaderValue)>);

impl ResponseHeaders {
    /// Converts them once, so that a response costs only their copies.
    pub fn new(headers: &BTreeMap<HeaderName, HeaderValue>) -> Self {
        let convert = |(name, value): (&HeaderName, &HeaderValue)| {
            // Tokens and visible text: what the one type takes, the other does too.
            Some((name.as_str().parse().ok()?, http::HeaderValue::from_str(value.as_str()).ok()?))
        };
        ResponseHeaders(headers.iter().filter_map(convert).collect())
    }

    /// Puts them in the place of all that have their names.
    pub fn put_into(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.insert(name.clone(), value.clone());
        }
    }
}
