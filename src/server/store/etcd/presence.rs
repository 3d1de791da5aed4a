//! What replicas say of themselves, and what follows from their settings. Pure.
//!
//! Each present replica has a key on a lease of its own. It is a JSON object of texts, as that of a node, so that a
//! version that says more is read by one that says less.

use std::collections::BTreeMap;

use super::leadership::Standing;

/// What a replica says of itself: names and texts.
pub type Presence = BTreeMap<String, String>;

/// The name under which a replica says where it takes the connections of other replicas.
pub const RELAY: &str = "relay";
/// The name under which it says a digest of the settings in which replicas must not differ.
pub const SETTINGS: &str = "settings";

/// What a replica says; `None`: this version cannot read it.
pub(super) fn read(value: &[u8]) -> Option<Presence> {
    serde_json::from_slice(value).ok()
}

/// Whether a replica with these settings may stand, as far as the others' settings go. Those that most have are right; of
/// two that equally many have, those of the replica that is first by its id.
pub(super) fn standing(ours: Option<&str>, present: &BTreeMap<String, Presence>) -> Standing {
    let settings = || present.values().map(|presence| presence.get(SETTINGS).map(String::as_str));
    let mut right: Option<(usize, Option<&str>)> = None;
    for candidate in settings() {
        let votes = settings().filter(|other| *other == candidate).count();
        if right.is_none_or(|(most, _)| votes > most) {
            right = Some((votes, candidate));
        }
    }
    match right {
        Some((_, right)) if right != ours => Standing::Last,
        _ => Standing::Yes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(settings: &[&str]) -> BTreeMap<String, Presence> {
        let presence = |settings: &&str| Presence::from([(SETTINGS.to_owned(), (*settings).to_owned())]);
        settings.iter().enumerate().map(|(id, settings)| (id.to_string(), presence(settings))).collect()
    }

    #[test]
    fn who_differs_from_most_stands_last() {
        assert_eq!(standing(Some("a"), &present(&[])), Standing::Yes);
        assert_eq!(standing(Some("a"), &present(&["a", "b", "a"])), Standing::Yes);
        assert_eq!(standing(Some("b"), &present(&["a", "b", "a"])), Standing::Last);
        // Two that differ: one of them leads all the same.
        assert_eq!(standing(Some("a"), &present(&["a", "b"])), Standing::Yes);
        assert_eq!(standing(Some("b"), &present(&["a", "b"])), Standing::Last);
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        assert_eq!(read(br#"{"relay":"10.0.0.1:82","colour":"blue"}"#).unwrap()[RELAY], "10.0.0.1:82");
        assert_eq!(read(b"[]"), None);
    }
}
