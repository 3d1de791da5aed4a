//! Reads the header Forwarded (RFC 7239).

/// What one proxy says of the request that it got.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Element {
    /// `for`: who sent the request to that proxy, as written: an address with or without a port, a name, `unknown`.
    pub(super) node: Option<String>,
    pub(super) host: Option<String>,
    pub(super) proto: Option<String>,
}

/// The elements of the header's lines, the client's first; `None` if the header is malformed.
pub(super) fn elements<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Vec<Element>> {
    let mut elements = Vec::new();
    for line in lines {
        for part in split(line, b',')? {
            if !part.trim().is_empty() {
                elements.push(element(part)?);
            }
        }
    }
    Some(elements)
}

fn element(text: &str) -> Option<Element> {
    let mut element = Element::default();
    for pair in split(text, b';')? {
        if pair.trim().is_empty() {
            continue;
        }
        let (name, value) = pair.split_once('=')?;
        let slot = match name.trim() {
            name if name.eq_ignore_ascii_case("for") => &mut element.node,
            name if name.eq_ignore_ascii_case("host") => &mut element.host,
            name if name.eq_ignore_ascii_case("proto") => &mut element.proto,
            _ => continue,
        };
        // Each parameter occurs at most once (section 4).
        if slot.replace(unquoted(value.trim())).is_some() {
            return None;
        }
    }
    Some(element)
}

/// Splits at `separator` outside of quotes; `None` if a quote does not end.
fn split(text: &str, separator: u8) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut is_quoted, mut is_escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            byte if byte == separator && !is_quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!is_quoted).then_some(parts)
}

/// A value without its quotes and backslashes.
fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut text = String::with_capacity(inner.len());
    let mut is_escaped = false;
    for c in inner.chars() {
        if c == '\\' && !is_escaped {
            is_escaped = true;
        } else {
            is_escaped = false;
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_with_quotes_and_any_case() {
        let read = |line: &str| elements(std::iter::once(line));
        let element = |node: Option<&str>, host: Option<&str>, proto: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            Element { node: owned(node), host: owned(host), proto: owned(proto) }
        };
        assert_eq!(read("proto=https"), Some(vec![element(None, None, Some("https"))]));
        assert_eq!(
            read("For=\"[2001:db8::1]:47\" ; PROTO=HTTPS;by=x, for=10.0.0.1;host=\"a,b;\\\"c\""),
            Some(vec![
                element(Some("[2001:db8::1]:47"), None, Some("HTTPS")),
                element(Some("10.0.0.1"), Some("a,b;\"c"), None),
            ])
        );
        let lines = ["for=1.1.1.1", "for=2.2.2.2"];
        assert_eq!(elements(lines.into_iter()).unwrap().len(), 2);
    }

    #[test]
    fn a_malformed_header_says_nothing() {
        for line in ["for=\"1.1.1.1", "for", "proto=http;proto=https", "for=\"a\\\""] {
            assert_eq!(elements(std::iter::once(line)), None, "{line}");
        }
    }
}
