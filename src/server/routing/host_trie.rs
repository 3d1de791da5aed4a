//! Claims by host: a persistent map for many hosts, most of which have one claim.
//!
//! It is a hash array mapped trie. A node has up to 32 slots, one for each value of five bits of the hash, and stores
//! only those that are taken. A copy shares all nodes. A change copies the nodes on the path to one host that are
//! shared.

use std::fmt;
use std::hash::BuildHasher;
use std::slice;
use std::sync::Arc;

use super::claim::Claim;

/// How many bits of the hash select a node's slot.
const BITS: u32 = 5;

/// The hasher is seeded at random for each process, because clients choose the hosts that are looked up. It is fast,
/// because every request needs it.
#[derive(Clone, Default)]
pub(super) struct Hosts<S = foldhash::quality::RandomState> {
    hasher: S,
    root: Arc<Node>,
}

/// The claims of one host, in the order in which they are tried.
#[derive(Debug, Clone)]
pub(super) enum Claims {
    One(Arc<Claim>),
    Many(Arc<Vec<Arc<Claim>>>),
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// One bit for each slot that is taken. Unused in nodes for hosts whose hashes are equal.
    taken: u32,
    /// The slots that are taken.
    slots: Vec<Slot>,
}

#[derive(Debug, Clone)]
enum Slot {
    Host(Claims),
    Branch(Arc<Node>),
}

/// The index of a host's slot in a node, or where it would be inserted.
enum Place {
    Taken(usize),
    Free(usize),
}

impl Claims {
    /// The claims as a slice.
    pub(super) fn as_slice(&self) -> &[Arc<Claim>] {
        match self {
            Claims::One(claim) => slice::from_ref(claim),
            Claims::Many(claims) => claims,
        }
    }

    /// `None` if `claims` is empty. All of them must have one host.
    pub(super) fn new(claims: Vec<Arc<Claim>>) -> Option<Self> {
        match <[Arc<Claim>; 1]>::try_from(claims) {
            Ok([one]) => Some(Claims::One(one)),
            Err(none) if none.is_empty() => None,
            Err(many) => Some(Claims::Many(Arc::new(many))),
        }
    }

    fn host(&self) -> &str {
        self.as_slice().first().map_or("", |claim| claim.domain.as_str())
    }
}

impl<S: BuildHasher> Hosts<S> {
    /// The claims of a host. Does not allocate.
    pub(super) fn get(&self, host: &str) -> Option<&[Arc<Claim>]> {
        let hash = self.hasher.hash_one(host);
        let (mut node, mut shift) = (&*self.root, 0);
        loop {
            let Place::Taken(at) = node.place(hash, shift, host) else { return None };
            match &node.slots[at] {
                Slot::Branch(next) => (node, shift) = (next, shift + BITS),
                Slot::Host(claims) => return (claims.host() == host).then(|| claims.as_slice()),
            }
        }
    }

    /// Replaces a host's claims by what `change` returns for them; `None`: no claims.
    pub(super) fn change(&mut self, host: &str, change: impl FnOnce(Option<Claims>) -> Option<Claims>) {
        let hash = self.hasher.hash_one(host);
        let rehash = |host: &str| self.hasher.hash_one(host);
        Arc::make_mut(&mut self.root).change(Key { host, hash, rehash: &rehash }, 0, change);
    }

    /// The claims of every host, in any order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[Arc<Claim>]> {
        let mut path = vec![self.root.slots.iter()];
        std::iter::from_fn(move || {
            loop {
                match path.last_mut()?.next() {
                    Some(Slot::Host(claims)) => return Some(claims.as_slice()),
                    Some(Slot::Branch(node)) => path.push(node.slots.iter()),
                    None => drop(path.pop()),
                }
            }
        })
    }
}

/// The host that is changed, its hash, and the hash function for other hosts.
#[derive(Clone, Copy)]
struct Key<'a> {
    host: &'a str,
    hash: u64,
    rehash: &'a dyn Fn(&str) -> u64,
}

impl Node {
    fn place(&self, hash: u64, shift: u32, host: &str) -> Place {
        if shift >= u64::BITS {
            let is_it = |slot: &Slot| matches!(slot, Slot::Host(claims) if claims.host() == host);
            return self.slots.iter().position(is_it).map_or(Place::Free(self.slots.len()), Place::Taken);
        }
        let bit = bit(hash, shift);
        let at = (self.taken & (bit - 1)).count_ones() as usize;
        if self.taken & bit == 0 { Place::Free(at) } else { Place::Taken(at) }
    }

    fn change(&mut self, key: Key<'_>, shift: u32, change: impl FnOnce(Option<Claims>) -> Option<Claims>) {
        let at = match self.place(key.hash, shift, key.host) {
            Place::Taken(at) => at,
            Place::Free(at) => {
                if let Some(claims) = change(None) {
                    self.put(at, key.hash, shift, Slot::Host(claims));
                }
                return;
            }
        };
        match &mut self.slots[at] {
            Slot::Branch(node) => {
                let node = Arc::make_mut(node);
                node.change(key, shift + BITS, change);
                match node.slots.as_slice() {
                    [] => self.take(at, key.hash, shift),
                    [Slot::Host(only)] => self.slots[at] = Slot::Host(only.clone()),
                    _ => {}
                }
            }
            Slot::Host(claims) if claims.host() == key.host => match change(Some(claims.clone())) {
                Some(changed) => *claims = changed,
                None => self.take(at, key.hash, shift),
            },
            // Another host has the slot: move both into a new node.
            Slot::Host(other) => {
                let Some(claims) = change(None) else { return };
                let other = ((key.rehash)(other.host()), other.clone());
                self.slots[at] = Node::of_two([other, (key.hash, claims)], shift + BITS);
            }
        }
    }

    /// A node for two different hosts that share a slot of the node above.
    fn of_two([one, other]: [(u64, Claims); 2], shift: u32) -> Slot {
        let mut node = Node::default();
        if shift < u64::BITS && bit(one.0, shift) == bit(other.0, shift) {
            let hash = one.0;
            node.put(0, hash, shift, Node::of_two([one, other], shift + BITS));
        } else {
            let at = usize::from(shift < u64::BITS && bit(one.0, shift) < bit(other.0, shift));
            node.put(0, one.0, shift, Slot::Host(one.1));
            node.put(at, other.0, shift, Slot::Host(other.1));
        }
        Slot::Branch(Arc::new(node))
    }

    fn put(&mut self, at: usize, hash: u64, shift: u32, slot: Slot) {
        // Exact, because there are many nodes and few of them grow again.
        self.slots.reserve_exact(1);
        self.slots.insert(at, slot);
        if shift < u64::BITS {
            self.taken |= bit(hash, shift);
        }
    }

    fn take(&mut self, at: usize, hash: u64, shift: u32) {
        self.slots.remove(at);
        self.slots.shrink_to_fit();
        if shift < u64::BITS {
            self.taken &= !bit(hash, shift);
        }
    }
}

fn bit(hash: u64, shift: u32) -> u32 {
    1 << (hash >> shift & ((1 << BITS) - 1))
}

impl<S> fmt::Debug for Hosts<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::hash::{BuildHasherDefault, DefaultHasher, Hasher};

    use proptest::prelude::*;

    use super::super::fixture::claim;
    use super::*;

    /// Only sixteen different hashes, which differ in the lowest or in the highest bits.
    #[derive(Default)]
    struct Poor(DefaultHasher);

    impl Hasher for Poor {
        fn finish(&self) -> u64 {
            let hash = self.0.finish();
            (hash & 3) | (hash >> 2 & 3) << 62
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0.write(bytes);
        }
    }

    fn host(number: u8) -> String {
        format!("h{number}.example.com")
    }

    fn nodes(node: &Node, depth: u32) -> usize {
        assert!(depth == 0 || !matches!(node.slots.as_slice(), [] | [Slot::Host(_)]), "{node:?}");
        let is_full = node.slots.len() == node.taken.count_ones() as usize;
        assert!(is_full || depth * BITS >= u64::BITS, "{node:?}");
        let below = |slot: &Slot| match slot {
            Slot::Branch(node) => nodes(node, depth + 1),
            Slot::Host(_) => 0,
        };
        1 + node.slots.iter().map(below).sum::<usize>()
    }

    fn behaves<S: BuildHasher + Clone + Default>(steps: &[(u8, Option<i32>)]) {
        let (mut hosts, mut expected) = (Hosts::<S>::default(), BTreeMap::new());
        let mut snapshots = Vec::new();
        for (number, priority) in steps {
            let before = expected.get(number).copied();
            hosts.change(&host(*number), |found| {
                assert_eq!(found.map(|claims| claims.as_slice()[0].terms.priority), before);
                Claims::new(Vec::from_iter(priority.map(|p| Arc::new(claim(&host(*number), "/", p)))))
            });
            match priority {
                Some(priority) => drop(expected.insert(*number, *priority)),
                None => drop(expected.remove(number)),
            }
            snapshots.push((hosts.clone(), expected.clone()));
        }
        for (hosts, expected) in &snapshots {
            let all: BTreeMap<_, _> =
                hosts.iter().map(|claims| (claims[0].domain.to_string(), claims[0].terms.priority)).collect();
            assert_eq!(all, expected.iter().map(|(number, p)| (host(*number), *p)).collect());
            for number in 0..=u8::MAX {
                let found = hosts.get(&host(number)).map(|claims| claims[0].terms.priority);
                assert_eq!(found, expected.get(&number).copied(), "{number}");
            }
            nodes(&hosts.root, 0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_snapshot_stays_what_it_was(
            steps in prop::collection::vec((0..40u8, prop::option::weighted(0.7, 0..9i32)), 0..100),
        ) {
            behaves::<foldhash::quality::RandomState>(&steps);
            behaves::<BuildHasherDefault<Poor>>(&steps);
        }
    }

    #[test]
    fn no_node_is_left_when_all_hosts_are_removed() {
        let mut hosts = Hosts::<BuildHasherDefault<Poor>>::default();
        for number in 0..=u8::MAX {
            hosts.change(&host(number), |_| Some(Claims::One(Arc::new(claim(&host(number), "/", 0)))));
        }
        assert!(nodes(&hosts.root, 0) > 1);
        for number in 0..=u8::MAX {
            hosts.change(&host(number), |_| None);
        }
        assert_eq!((nodes(&hosts.root, 0), hosts.iter().count()), (1, 0));
    }
}
