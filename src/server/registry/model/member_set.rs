//! Sets of members, kept as runs of consecutive ids.
//!
//! The members of one apply get consecutive ids and stay together in most sets, so a set of 100,000 members takes as
//! little memory as one of two.

use std::collections::BTreeMap;

use crate::server::routing::MemberId;

/// A set of members, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MemberSet {
    /// The last id of each run, by its first. There is a gap between two runs.
    runs: BTreeMap<u64, u64>,
}

impl MemberSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, id: MemberId) -> bool {
        self.runs.range(..=id.0).next_back().is_some_and(|(_, last)| *last >= id.0)
    }

    pub(crate) fn insert(&mut self, MemberId(id): MemberId) {
        // Nearly always it follows the greatest id.
        if let Some(mut newest) = self.runs.last_entry()
            && *newest.get() + 1 == id
        {
            *newest.get_mut() = id;
            return;
        }
        let last = self.runs.remove(&(id + 1)).unwrap_or(id);
        match self.runs.range_mut(..=id).next_back() {
            Some((_, end)) if *end + 1 >= id => *end = last.max(*end),
            _ => drop(self.runs.insert(id, last)),
        }
    }

    /// Returns whether it was in the set.
    pub(crate) fn remove(&mut self, MemberId(id): MemberId) -> bool {
        let run = self.runs.range(..=id).next_back().map(|(first, last)| (*first, *last));
        let Some((first, last)) = run.filter(|(_, last)| *last >= id) else { return false };
        if first == id {
            self.runs.remove(&first);
        } else {
            self.runs.insert(first, id - 1);
        }
        if id < last {
            self.runs.insert(id + 1, last);
        }
        true
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = MemberId> {
        self.runs.iter().flat_map(|(first, last)| (*first..=*last).map(MemberId))
    }
}

impl Extend<MemberId> for MemberSet {
    fn extend<I: IntoIterator<Item = MemberId>>(&mut self, ids: I) {
        ids.into_iter().for_each(|id| self.insert(id));
    }
}

impl FromIterator<MemberId> for MemberSet {
    fn from_iter<I: IntoIterator<Item = MemberId>>(ids: I) -> Self {
        let mut set = MemberSet::default();
        set.extend(ids);
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_of_one_apply_are_one_run_in_whatever_order_they_come() {
        for ids in [[1, 2, 3, 4], [4, 3, 2, 1], [1, 3, 2, 4], [4, 1, 3, 2]] {
            let set: MemberSet = ids.map(MemberId).into_iter().collect();
            assert_eq!(set.runs, BTreeMap::from([(1, 4)]), "{ids:?}");
        }
    }

    proptest! {
        #[test]
        fn it_is_what_a_set_of_single_ids_is(steps in prop::collection::vec((1..20u64, any::<bool>()), 0..60)) {
            let (mut set, mut expected) = (MemberSet::default(), BTreeSet::new());
            for (id, joins) in steps.into_iter().map(|(id, joins)| (MemberId(id), joins)) {
                if joins {
                    set.insert(id);
                    expected.insert(id);
                } else {
                    prop_assert_eq!(set.remove(id), expected.remove(&id));
                }
                prop_assert_eq!(set.is_empty(), expected.is_empty());
                prop_assert!(set.iter().eq(expected.iter().copied()), "{:?}", set);
                prop_assert!((0..21).map(MemberId).all(|id| set.contains(id) == expected.contains(&id)));
                let ends: Vec<u64> = set.runs.iter().flat_map(|(first, last)| [*first, *last + 1]).collect();
                prop_assert!(ends.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", set);
            }
        }
    }
}
