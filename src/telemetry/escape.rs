//! Escapes characters that a reader of a log does not see, or that show the others in another order.
//!
//! Names of services, hosts and instances come from peers. A bidirectional control in one of them could make a line
//! read as another, and a line separator could make two of one. It must not know what a line says.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

/// How an escaped character is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notation {
    /// `\u{202e}`, as in Rust and JavaScript.
    Text,
    /// `\u202e`, or a pair of surrogates: what a JSON string allows.
    Json,
}

/// `text` with every control, invisible or reordering character escaped. Borrowed where there is none.
pub fn escape(text: &str, notation: Notation) -> Cow<'_, str> {
    let Some(first) = text.find(is_deceptive) else { return Cow::Borrowed(text) };
    let mut escaped = String::with_capacity(text.len() + 16);
    escaped.push_str(&text[..first]);
    for character in text[first..].chars() {
        if is_deceptive(character) {
            push(&mut escaped, character, notation);
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

fn push(escaped: &mut String, character: char, notation: Notation) {
    // Writing to a string does not fail.
    let _ = match notation {
        Notation::Text => write!(escaped, "{}", character.escape_unicode()),
        Notation::Json => {
            character.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(escaped, "\\u{unit:04x}"))
        }
    };
}

/// Controls (C0, C1, line and paragraph separators), bidirectional controls, and characters without width.
fn is_deceptive(character: char) -> bool {
    matches!(
        character,
        '\0'..='\x08'
            | '\x0a'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Writes to `W` lines whose deceptive characters are escaped. Each call of `write` must have one whole line; only the
/// line feed at its end stays.
#[derive(Debug)]
pub struct EscapingWriter<W> {
    inner: W,
    notation: Notation,
}

impl<W> EscapingWriter<W> {
    /// Escapes what goes to `inner`.
    pub fn new(inner: W, notation: Notation) -> Self {
        EscapingWriter { inner, notation }
    }
}

impl<W: io::Write> io::Write for EscapingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let text = String::from_utf8_lossy(line);
        let escaped = escape(&text, self.notation);
        if let (Cow::Borrowed(_), Cow::Borrowed(_)) = (&text, &escaped) {
            self.inner.write_all(bytes)?;
        } else {
            // One write for the whole line, so that lines of several threads do not mix.
            let mut whole = escaped.into_owned();
            whole.push_str(if line.len() < bytes.len() { "\n" } else { "" });
            self.inner.write_all(whole.as_bytes())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_not_seen_is_spelled_out() {
        let shown = |text| escape(text, Notation::Text).into_owned();
        assert_eq!(shown("shop\u{202e}gro.live"), r"shop\u{202e}gro.live", "right-to-left override");
        assert_eq!(shown("sh\u{200b}op"), r"sh\u{200b}op", "zero width");
        assert_eq!(shown("a\u{2028}b\u{2029}c\u{85}d"), r"a\u{2028}b\u{2029}c\u{85}d", "ends of lines");
        assert_eq!(shown("a\rb\nc\u{1b}[31m"), r"a\u{d}b\u{a}c\u{1b}[31m", "controls");
        assert_eq!(
            shown("\u{2066}x\u{2069}\u{61c}\u{feff}"),
            r"\u{2066}x\u{2069}\u{61c}\u{feff}",
            "isolates, marks"
        );
        assert_eq!(shown("\u{e0041}\u{ad}\u{3164}"), r"\u{e0041}\u{ad}\u{3164}", "tags, soft hyphen, filler");
    }

    #[test]
    fn what_is_seen_stays_and_costs_no_copy() {
        for text in ["", "web-1", "käse.example", "заказ", "店", "a\tb", "😀"] {
            assert!(matches!(escape(text, Notation::Text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn an_escaped_json_line_is_json_and_means_the_same() {
        let said = "a\u{202e}b\u{e0041}c";
        let mut line = Vec::new();
        let json = format!("{{\"name\":\"{said}\"}}\n");
        EscapingWriter::new(&mut line, Notation::Json).write_all(json.as_bytes()).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert_eq!(line, "{\"name\":\"a\\u202eb\\udb40\\udc41c\"}\n");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["name"], said);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let mut line = Vec::new();
        EscapingWriter::new(&mut line, Notation::Text).write_all(b"a\xffb\n").unwrap();
        assert_eq!(String::from_utf8(line).unwrap(), "a\u{fffd}b\n");
    }
}
