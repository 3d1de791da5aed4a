//! The secrets that a registration must give (SEMANTICS section 9): the registry's token (REGISTRY_TOKEN), and that of
//! its service (`service_token`).

use std::fmt::{self, Display};
use std::hint::black_box;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::encoding;
use super::id_hash::IdHash;

/// A secret. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token of this text.
    pub fn new(text: &str) -> Self {
        Token(text.to_owned())
    }

    /// Whether `given` is the token. The time that this takes depends on the length of `given` alone: not on how much of it
    /// is right, nor on the token.
    pub fn is(&self, given: &str) -> bool {
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

/// A service's token as a salted hash. People choose these tokens: without a salt, a stolen state file would show which
/// services have the same one, and prepared tables of hashes would reveal them.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceToken {
    salt: u128,
    hash: [u8; 32],
}

impl ServiceToken {
    /// The hash of a token, with 128 random bits.
    pub fn new(salt: u128, token: &str) -> Self {
        ServiceToken { salt, hash: hash(salt, token) }
    }

    /// How a REGISTRY_POLICY has it.
    pub fn digest(&self) -> String {
        format!("sha256:{}", Text(self.clone()))
    }

    /// Whether `given` is the token. The time that this takes depends on the length of `given` alone.
    pub(crate) fn is(&self, given: &str) -> bool {
        let pairs = self.hash.iter().zip(hash(self.salt, given));
        black_box(pairs.fold(0, |differs, (one, other)| black_box(differs | (one ^ other)))) == 0
    }
}

fn hash(salt: u128, token: &str) -> [u8; 32] {
    Sha256::new().chain_update(salt.to_be_bytes()).chain_update(token.as_bytes()).finalize().into()
}

impl fmt::Debug for ServiceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The form in records: salt and hash, both in hexadecimal.
struct Text(ServiceToken);

impl Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}:{}", self.0.salt, IdHash::from_bytes(self.0.hash))
    }
}

impl FromStr for Text {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "it is no salt and SHA-256";
        let (salt, hash) = text.split_once(':').ok_or(WRONG)?;
        let salt = u128::from_str_radix(salt, 16).map_err(|_| WRONG)?;
        Ok(Text(ServiceToken { salt, hash: hash.parse::<IdHash>().map_err(|_| WRONG)?.to_bytes() }))
    }
}

impl FromStr for ServiceToken {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Text>().map(|text| text.0)
    }
}

impl Serialize for ServiceToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Text(self.clone()))
    }
}

impl<'de> Deserialize<'de> for ServiceToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        encoding::text::deserialize::<Text, D>(deserializer).map(|text| text.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_services_token_is_known_by_its_salted_hash() {
        let stored = ServiceToken::new(7, "correct horse");
        assert!(stored.is("correct horse"));
        for wrong in ["", "correct hors", "correct horsee", "Correct horse"] {
            assert!(!stored.is(wrong), "{wrong}");
        }
        assert_ne!(stored, ServiceToken::new(8, "correct horse"), "the same token elsewhere is another hash");
        assert_eq!(format!("{stored:?}"), "[redacted]");
        let text = serde_json::to_string(&stored).unwrap();
        assert!(!text.contains("horse"));
        assert_eq!(serde_json::from_str::<ServiceToken>(&text).unwrap(), stored);
        for damaged in [r#""""#, r#""7""#, r#""7:7""#, "7"] {
            assert!(serde_json::from_str::<ServiceToken>(damaged).is_err(), "{damaged}");
        }
    }

    /// A comparison that ends at the first difference takes a thousandth of the time for the first of these.
    #[test]
    fn a_wrong_first_letter_takes_as_long_as_a_wrong_last_one() {
        let secret = "x".repeat(20_000);
        let token = Token::new(&secret);
        let (first, last) = (format!("y{}", &secret[1..]), format!("{}y", &secret[1..]));
        let least = |given: &str| {
            let once = || {
                let begun = std::time::Instant::now();
                assert!(!token.is(black_box(given)));
                begun.elapsed()
            };
            (0..50).map(|_| once()).min().unwrap()
        };
        let (first, last) = (least(&first), least(&last));
        assert!(first > last / 4 && last > first / 4, "{first:?} and {last:?}");
    }

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
