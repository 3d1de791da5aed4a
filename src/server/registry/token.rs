//! The secret that a registry asks of everybody who registers (SEMANTICS section 9, REGISTRY_TOKEN).

use std::fmt;
use std::hint::black_box;

/// A secret. `Debug` does not show it.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes the text over.
    pub fn new(text: &str) -> Self {
        Token(text.to_owned())
    }

    /// Whether `given` is the same. How long this takes depends on the length of what was given, and on nothing
    /// else: not on how much of it is right, nor on the secret.
    pub(super) fn is(&self, given: &str) -> bool {
        let (secret, given) = (self.0.as_bytes(), given.as_bytes());
        // An empty secret is none, and nobody has it.
        let Some(last) = secret.len().checked_sub(1) else { return false };
        let differs = given.iter().enumerate().fold(secret.len() ^ given.len(), |differs, (at, byte)| {
            black_box(differs | usize::from(secret[at.min(last)] ^ byte))
        });
        black_box(differs) == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_text_is_the_same() {
        let token = Token::new("correct horse");
        assert!(token.is("correct horse"));
        for wrong in
            ["", "c", "correct hors", "correct horsf", "dorrect horse", "correct horsee", "CORRECT HORSE"]
        {
            assert!(!token.is(wrong), "{wrong}");
        }
        assert!(!Token::new("").is(""));
        assert_eq!(format!("{token:?}"), "[redacted]");
    }
}
