//! Why a value was refused: which kind of value, what was given, what is wrong, what would be right.

use std::borrow::Cow;

/// A value that was refused on its way from text to type.
///
/// The message names the kind of value, the value, the reason and a correct example; whoever knows the
/// name of the field or variable puts it in front.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} {value:?}: {reason} (for example: {example})")]
pub struct Invalid {
    /// What it was to become: `domain`, `duration`, …
    pub kind: &'static str,
    /// The text as given, cut to a bounded length.
    pub value: String,
    /// What is wrong with it.
    pub reason: Cow<'static, str>,
    /// A value that would have been accepted.
    pub example: &'static str,
}

/// Refused values are quoted up to this many characters, so that an error fits a line.
const QUOTED_CHARS: usize = 100;

impl Invalid {
    /// A refusal of `value`; only its first 100 characters are kept.
    pub fn new(
        kind: &'static str,
        value: &str,
        reason: impl Into<Cow<'static, str>>,
        example: &'static str,
    ) -> Self {
        Invalid { kind, value: value.chars().take(QUOTED_CHARS).collect(), reason: reason.into(), example }
    }
}

/// Whether `text` may stand in a field: no separator, no line end, no NUL ([PROTOCOL section 1](crate::spec::protocol#1-framing)).
pub fn is_field_safe(text: &str) -> bool {
    !text.bytes().any(|b| matches!(b, b'|' | b'\n' | b'\r' | 0))
}
