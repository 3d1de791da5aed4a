//! Where everything lies in etcd. Pure: keys to texts and back.
//!
//! | below `<base path>/@servers/` | value | written by |
//! |---|---|---|
//! | `cluster/id` | [`ClusterValue`](super::values::ClusterValue) | whoever comes first, and an import |
//! | `leader/key` | who leads; it hangs on the leader's lease | who wins the election |
//! | `replicas/<replica>` | what a replica says of itself, on its lease | each replica its own |
//! | `boots/<boot id>` | when a server was last alive in that boot | each replica its own |
//! | `sessions/<no>` | a session, without its routes | the leader |
//! | `routes/<no>/<route>` | a route of a session; `null`: none, whatever the parts say | the leader |
//! | `parts/<no>/<term>-<attempt>/<part>` | many routes of a session at once | the leader |
//! | `maintenance/<no>` | a session's maintenance, unless it is empty | the leader |
//! | `marks/<no>` | a session's marks, unless they are empty | the leader |
//! | `commits/<term>` | what the last commit of that term changed; its version counts them | the leader |
//!
//! Each key has at least three segments below the base path, so that none is `<base path>/<service>/<node>`, where nodes
//! are. Numbers are written with all of their digits, so that the keys' order is theirs.

use std::fmt;

use crate::server::registry::{SessionNo, Term};
use registry_client::protocol::RouteId;

/// The folder below the base path in which everything is.
const FOLDER: &str = "@servers";

/// The keys below one base path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    root: String,
}

/// A key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Cluster,
    Leader,
    Replica(String),
    Boot(String),
    Session(SessionNo),
    Route(SessionNo, RouteId),
    Part(SessionNo, PartsId, u32),
    Maintenance(SessionNo),
    Marks(SessionNo),
    Commits(Term),
}

/// Keys that are deleted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Folder {
    Routes(SessionNo),
    /// All parts of a session.
    Parts(SessionNo),
    /// The parts that one commit wrote.
    PartsOf(SessionNo, PartsId),
}

/// Which try of a commit wrote parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PartsId {
    pub(super) term: Term,
    /// Which of the term's tries.
    pub(super) attempt: u64,
}

/// The folders that are read, and how many keys of each are read at once: about a mebibyte of them.
pub(super) const READ: [(&str, i64); 10] = [
    ("cluster", 1),
    ("leader", 1),
    ("replicas", 100),
    ("boots", 1000),
    ("sessions", 1000),
    ("parts", 4),
    ("routes", 2000),
    ("maintenance", 1000),
    ("marks", 1000),
    ("commits", 100),
];

impl Layout {
    /// The keys of the servers with this base path, which has no `/` at its end.
    pub(super) fn new(base: &str) -> Layout {
        Layout { root: format!("{}/{FOLDER}/", base.trim_end_matches('/')) }
    }

    /// What all keys begin with.
    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// What the keys of a folder of [`READ`] begin with.
    pub(super) fn read(&self, folder: &str) -> String {
        format!("{}{folder}/", self.root)
    }

    pub(super) fn key(&self, key: &Key) -> String {
        format!("{}{key}", self.root)
    }

    pub(super) fn folder(&self, folder: Folder) -> String {
        format!("{}{folder}", self.root)
    }

    /// Which key this is; `None`: this version has no such key.
    pub(super) fn parse(&self, key: &str) -> Option<Key> {
        let (folder, rest) = key.strip_prefix(&self.root)?.split_once('/')?;
        let key = match folder {
            "cluster" => (rest == "id").then_some(Key::Cluster)?,
            "leader" => (rest == "key").then_some(Key::Leader)?,
            "replicas" => Key::Replica(name(rest)?),
            "boots" => Key::Boot(name(rest)?),
            "sessions" => Key::Session(session(rest)?),
            "maintenance" => Key::Maintenance(session(rest)?),
            "marks" => Key::Marks(session(rest)?),
            "commits" => Key::Commits(Term(number(rest)?)),
            "routes" => {
                let (no, id) = rest.split_once('/')?;
                Key::Route(session(no)?, RouteId(u32::try_from(number(id)?).ok()?))
            }
            "parts" => {
                let (no, rest) = rest.split_once('/')?;
                let (id, part) = rest.split_once('/')?;
                Key::Part(session(no)?, parts_id(id)?, u32::try_from(number(part)?).ok()?)
            }
            _ => return None,
        };
        Some(key)
    }
}

fn name(text: &str) -> Option<String> {
    (!text.is_empty() && !text.contains('/')).then(|| text.to_owned())
}

fn session(text: &str) -> Option<SessionNo> {
    number(text).map(SessionNo)
}

/// Only what is written with all digits: a number must not have two keys.
fn number(text: &str) -> Option<u64> {
    (text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

pub(super) fn parts_id(text: &str) -> Option<PartsId> {
    let (term, attempt) = text.split_once('-')?;
    Some(PartsId { term: Term(number(term)?), attempt: number(attempt)? })
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Cluster => f.write_str("cluster/id"),
            Key::Leader => f.write_str("leader/key"),
            Key::Replica(id) => write!(f, "replicas/{id}"),
            Key::Boot(id) => write!(f, "boots/{id}"),
            Key::Session(no) => write!(f, "sessions/{:020}", no.0),
            Key::Route(no, id) => write!(f, "{}{:020}", Folder::Routes(*no), id.0),
            Key::Part(no, id, part) => write!(f, "{}{part:020}", Folder::PartsOf(*no, *id)),
            Key::Maintenance(no) => write!(f, "maintenance/{:020}", no.0),
            Key::Marks(no) => write!(f, "marks/{:020}", no.0),
            Key::Commits(term) => write!(f, "commits/{:020}", term.0),
        }
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Folder::Routes(no) => write!(f, "routes/{:020}/", no.0),
            Folder::Parts(no) => write!(f, "parts/{:020}/", no.0),
            Folder::PartsOf(no, id) => write!(f, "parts/{:020}/{id}/", no.0),
        }
    }
}

impl fmt::Display for PartsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{:020}", self.term.0, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_key() -> Vec<Key> {
        let (no, id) = (SessionNo(7), PartsId { term: Term(9), attempt: 3 });
        vec![
            Key::Cluster,
            Key::Leader,
            Key::Replica("a".to_owned()),
            Key::Boot("b-c".to_owned()),
            Key::Session(no),
            Key::Route(no, RouteId(u32::MAX)),
            Key::Part(no, id, 12),
            Key::Maintenance(no),
            Key::Marks(SessionNo(u64::MAX)),
            Key::Commits(Term(9)),
        ]
    }

    #[test]
    fn a_key_is_read_as_what_was_written_and_every_folder_is_read() {
        let layout = Layout::new("/services");
        for key in every_key() {
            let text = layout.key(&key);
            assert_eq!(layout.parse(&text).as_ref(), Some(&key), "{text}");
            assert!(READ.iter().any(|(folder, _)| text.starts_with(&layout.read(folder))), "{text}");
        }
        assert_eq!(READ.len(), every_key().len());
    }

    #[test]
    fn no_key_is_that_of_a_node_and_another_base_path_has_others() {
        for base in ["/services", "/", "a/b"] {
            let layout = Layout::new(base);
            for key in every_key() {
                let text = layout.key(&key);
                let below = text.strip_prefix(base.trim_end_matches('/')).unwrap().trim_start_matches('/');
                assert!(below.split('/').count() >= 3, "{text}");
                assert_eq!(Layout::new("/other").parse(&text), None);
            }
        }
    }

    #[test]
    fn what_this_version_does_not_write_is_no_key_of_it() {
        let layout = Layout::new("/s");
        for text in [
            "/s/@servers/cluster/format",
            "/s/@servers/sessions/7",
            "/s/@servers/sessions/+0000000000000000007",
            "/s/@servers/sessions/00000000000000000007/1",
            "/s/@servers/routes/00000000000000000007/99999999999999999999",
            "/s/@servers/parts/00000000000000000007/00000000000000000001",
            "/s/@servers/replicas/",
            "/s/@servers/colours/blue",
            "/s/web/n1",
        ] {
            assert_eq!(layout.parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_order_of_keys_is_that_of_their_numbers() {
        let layout = Layout::new("/s");
        let routes: Vec<_> =
            [2, 10, 100].map(|id| layout.key(&Key::Route(SessionNo(9), RouteId(id)))).into_iter().collect();
        assert!(routes.is_sorted());
        assert!(layout.key(&Key::Session(SessionNo(9))) < layout.key(&Key::Session(SessionNo(10))));
    }
}
