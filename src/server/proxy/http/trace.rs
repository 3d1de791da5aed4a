//! W3C Trace Context: the id of a request's trace, which is passed on, or begun for a share of the requests that have none
//! (pure).

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// How long a traceparent of version 00 is. Later versions may say more behind it.
const LENGTH: usize = 55;

/// The id of the trace that a request belongs to, if its traceparent is valid.
pub(crate) fn id(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    let (first, None) = (all.next()?, all.next()) else { return None };
    trace_id(first.to_str().ok()?)
}

/// Begins a trace for a request that belongs to none. `random`: 192 random bits. The backend is told that the trace is
/// recorded.
pub(crate) fn begin(headers: &mut HeaderMap, (trace, parent): (u128, u64)) {
    // A state belongs to a traceparent that was valid.
    headers.remove(TRACESTATE);
    // Ids of zeros are none.
    let value = format!("00-{:032x}-{:016x}-01", trace.max(1), parent.max(1));
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(TRACEPARENT, value);
    }
}

fn trace_id(text: &str) -> Option<&str> {
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let mut parts = known.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = [version, trace, parent, flags].map(str::len);
    let is_version = version != "ff" && (rest.is_empty() || (version != "00" && rest.starts_with('-')));
    let is_id = |part: &str| part.bytes().any(|byte| byte != b'0');
    let is_valid = lengths == [2, 32, 16, 2]
        && parts.next().is_none()
        && [version, trace, parent, flags].into_iter().all(is_hex)
        && is_version
        && is_id(trace)
        && is_id(parent);
    is_valid.then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn of(text: &str) -> Option<&str> {
        trace_id(text)
    }

    #[test]
    fn only_a_valid_traceparent_has_an_id() {
        let valid = format!("00-{TRACE}-00f067aa0ba902b7-01");
        assert_eq!(of(&valid), Some(TRACE));
        assert_eq!(of(&format!("cc-{TRACE}-00f067aa0ba902b7-01-what the future brings")), Some(TRACE));
        for wrong in [
            String::new(),
            valid[..54].to_owned(),
            format!("{valid}-x"),
            format!("{valid}x"),
            valid.replace("00-4", "ff-4"),
            valid.to_uppercase(),
            valid.replace('f', "g"),
            valid.replace(TRACE, &"0".repeat(32)),
            valid.replace("00f067aa0ba902b7", &"0".repeat(16)),
            valid.replace('-', "_"),
            format!("ä{}", &valid[2..]),
        ] {
            assert_eq!(of(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_trace_that_begins_is_valid_and_has_no_state_of_another() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
        headers.insert(TRACEPARENT, HeaderValue::from_static("nonsense"));
        assert_eq!(id(&headers), None);
        begin(&mut headers, (0, 0));
        assert_eq!(id(&headers), Some("00000000000000000000000000000001"));
        assert!(!headers.contains_key(TRACESTATE));
        headers.append(
            TRACEPARENT,
            HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        );
        assert_eq!(id(&headers), None, "two are none");
    }
}
