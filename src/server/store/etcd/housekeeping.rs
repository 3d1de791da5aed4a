//! What is written to etcd that nobody waits for. Pure.

use std::time::{Duration, SystemTime};

use registry_nodes::kv::{Compare, Op, Transaction};

use crate::server::registry::Term;

use super::image::Image;
use super::layout::{Folder, Key, Layout};
use super::values::{BootValue, encode};

/// How many terms' counts of commits are kept. A leader whose term is over asks for its own until it knows what became of
/// its last commit.
const TERMS: usize = 16;
/// After so long a boot in which no server is alive is forgotten.
const BOOT: Duration = Duration::from_secs(24 * 60 * 60);
/// How many operations one transaction has at most.
const OPERATIONS: usize = 50;

/// Says that a server is alive in this boot.
pub(super) fn alive(layout: &Layout, boot_id: &str, now: SystemTime) -> Transaction {
    let key = layout.key(&Key::Boot(boot_id.to_owned()));
    let put = Op::Put { key, value: encode(&BootValue { alive_at: now }), lease: 0 };
    Transaction { then: vec![put], ..Transaction::default() }
}

/// Deletes what nobody needs any more: parts to which no session points, the counts of terms that are long over, boots in
/// which no server is alive. It holds only while the term lasts, and no commit of the term may be on its way.
pub(super) fn collect(image: &Image, layout: &Layout, term: Term, now: SystemTime) -> Vec<Transaction> {
    let parts = image.loose_parts().map(|(no, id)| Folder::PartsOf(no, id));
    let parts = parts.map(|folder| Op::DeleteBelow { prefix: layout.folder(folder) });
    let terms = image.commits().iter().rev().skip(TERMS).filter(|old| **old != term);
    let terms = terms.map(|old| Op::Delete { key: layout.key(&Key::Commits(*old)) });
    let is_old = |at: &SystemTime| now.duration_since(*at).is_ok_and(|age| age > BOOT);
    let boots = image.boots().iter().filter(|(_, at)| is_old(at));
    let boots = boots.map(|(id, _)| Op::Delete { key: layout.key(&Key::Boot(id.clone())) });
    let ops: Vec<Op> = parts.chain(terms).chain(boots).collect();
    let revision = i64::try_from(term.0).unwrap_or(i64::MAX);
    let transaction = |ops: &[Op]| Transaction {
        when: vec![Compare::Created { key: layout.key(&Key::Leader), revision }],
        then: ops.to_vec(),
        otherwise: Vec::new(),
    };
    ops.chunks(OPERATIONS).map(transaction).collect()
}
