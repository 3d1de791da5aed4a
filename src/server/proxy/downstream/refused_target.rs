//! Pure: which byte of a request's target is the reason why hyper does not take it. `http::Uri` cannot hold such a
//! target, so the proxy refuses it (SEMANTICS section 2), and the page says what to write instead.

/// The byte that may not stand in the target of the request that `head` begins, if that is what is wrong with it.
/// `head` may end anywhere.
pub(super) fn refused_byte(head: &[u8]) -> Option<u8> {
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let (method, target) = (words.next()?, words.next()?);
    if method.is_empty() || !method.iter().all(u8::is_ascii_uppercase) {
        return None;
    }
    let mut is_query = false;
    for byte in target.iter().copied() {
        match byte {
            b'#' => break,
            b'?' => is_query = true,
            _ if is_refused(byte, is_query) => return Some(byte),
            _ => {}
        }
    }
    let rest = words.next();
    // Without a blank behind it, the target's last character may only be cut off where `head` ends.
    if let Err(error) = std::str::from_utf8(target)
        && (error.error_len().is_some() || rest.is_some())
    {
        return target.get(error.valid_up_to()).copied();
    }
    // What follows the blank is the version, or more of a target that holds a blank.
    rest.filter(|rest| !rest.is_empty() && !b"HTTP/".starts_with(first_five(rest))).map(|_| b' ')
}

fn first_five(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(5)]
}

/// Control characters never reach this: hyper takes the line for something else.
fn is_refused(byte: u8, is_query: bool) -> bool {
    match byte {
        b'<' | b'>' | 0x00..=0x1F | 0x7F => true,
        b'"' => is_query,
        b'`' => !is_query,
        _ => false,
    }
}

/// What the page says of that byte.
pub(super) fn explanation(byte: u8) -> String {
    let shown = match byte {
        b' ' => "a blank".to_owned(),
        byte if byte.is_ascii_graphic() => format!("the character {}", char::from(byte)),
        byte => format!("the byte 0x{byte:02X}"),
    };
    format!("The request could not be understood: its target has {shown}, which a URL writes as %{byte:02X}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_may_not_stand_there_is_named() {
        for (head, refused) in [
            (&b"GET /a?b=\"c\" HTTP/1.1\r\nHost: x\r\n"[..], Some(b'"')),
            (b"GET /a\"b HTTP/1.1\r\n", None),
            (b"GET /a`b HTTP/1.1\r\n", Some(b'`')),
            (b"GET /a?b` HTTP/1.1\r\n", None),
            (b"GET /<b>?c=> HTTP/1.1\r\n", Some(b'<')),
            (b"GET /caf\xE9 HTTP/1.1\r\n", Some(0xE9)),
            (b"GET /caf\xC3\xA9 HTTP/1.1\r\n", None),
            (b"GET /caf\xC3", None),
            (b"GET /my file HTTP/1.1\r\n", Some(b' ')),
            (b"GET /my HTT", None),
            (b"GET /my ", None),
            (b"GET /a#<b HTTP/1.1\r\n", None),
            // The rest of a head, or what is no request at all.
            (b"X-A: <b> c\r\n", None),
            (b"\x16\x03\x01\x02 <", None),
            (b"", None),
        ] {
            assert_eq!(refused_byte(head), refused, "{}", String::from_utf8_lossy(head));
        }
    }

    #[test]
    fn the_page_says_how_it_is_written() {
        assert!(explanation(b'"').ends_with("has the character \", which a URL writes as %22."));
        assert!(explanation(b' ').ends_with("has a blank, which a URL writes as %20."));
        assert!(explanation(0xE9).ends_with("has the byte 0xE9, which a URL writes as %E9."));
    }
}
