//! The members of a claim, in the order in which they joined. A list of one, which most claims have, does not allocate.

use std::ops::Deref;
use std::slice;

use registry_client::protocol::Weight;

use super::member::{Member, MemberId};

/// A claim's members.
#[derive(Debug, Clone)]
pub struct Members(List);

#[derive(Debug, Clone)]
enum List {
    One(Member),
    Many {
        all: Box<[Member]>,
        /// Whether any of them is draining or has another weight than usual.
        weighted: bool,
    },
}

impl Default for Members {
    /// No members.
    fn default() -> Self {
        Members(List::Many { all: Box::default(), weighted: false })
    }
}

impl From<Vec<Member>> for Members {
    fn from(members: Vec<Member>) -> Self {
        Members(match <[Member; 1]>::try_from(members) {
            Ok([one]) => List::One(one),
            Err(all) => {
                let weighted = all.iter().any(is_weighted);
                List::Many { all: all.into(), weighted }
            }
        })
    }
}

impl Members {
    /// Adds a member at the end.
    pub fn push(&mut self, member: Member) {
        *self = if self.is_empty() {
            Members(List::One(member))
        } else {
            let mut all = self.take();
            all.reserve_exact(1);
            all.push(member);
            all.into()
        };
    }

    /// Removes a member, if it is there.
    pub fn remove(&mut self, id: MemberId) {
        let mut all = self.take();
        all.retain(|member| member.id != id);
        *self = all.into();
    }

    /// Changes every member.
    pub fn change_all(&mut self, change: impl FnMut(&mut Member)) {
        match &mut self.0 {
            List::One(member) => std::iter::once(member).for_each(change),
            List::Many { all, weighted } => {
                all.iter_mut().for_each(change);
                *weighted = all.iter().any(is_weighted);
            }
        }
    }

    /// Changes a member, if it is there.
    pub fn change_one(&mut self, id: MemberId, change: impl FnOnce(&mut Member)) {
        let mut change = Some(change);
        self.change_all(|member| {
            if member.id == id
                && let Some(change) = change.take()
            {
                change(member);
            }
        });
    }

    /// Whether some of several members get another share than usual: they drain, or have another weight. A single member
    /// gets all requests anyway, unless its weight is zero.
    pub fn are_weighted(&self) -> bool {
        matches!(self.0, List::Many { weighted: true, .. })
    }

    fn take(&mut self) -> Vec<Member> {
        match std::mem::take(self).0 {
            List::One(member) => vec![member],
            List::Many { all, .. } => all.into_vec(),
        }
    }
}

fn is_weighted(member: &Member) -> bool {
    member.terms.drain.is_some() || member.terms.settings.weight != Weight::default()
}

impl Deref for Members {
    type Target = [Member];

    #[inline]
    fn deref(&self) -> &[Member] {
        match &self.0 {
            List::One(member) => slice::from_ref(member),
            List::Many { all, .. } => all,
        }
    }
}

impl<'a> IntoIterator for &'a Members {
    type Item = &'a Member;
    type IntoIter = slice::Iter<'a, Member>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::member;
    use super::*;

    #[test]
    fn members_stay_in_the_order_in_which_they_joined() {
        let ids = |members: &Members| members.iter().map(|member| member.id.0).collect::<Vec<_>>();
        let mut members = Members::default();
        for (joins, expected) in [(1, vec![1]), (2, vec![1, 2]), (3, vec![1, 2, 3])] {
            members.push(member(joins));
            assert_eq!(ids(&members), expected);
        }
        for (leaves, expected) in
            [(9, vec![1, 2, 3]), (2, vec![1, 3]), (1, vec![3]), (3, vec![]), (3, vec![])]
        {
            members.remove(MemberId(leaves));
            assert_eq!(ids(&members), expected);
        }
    }

    #[test]
    fn a_list_of_one_takes_no_more_memory_than_the_member() {
        assert_eq!(size_of::<Members>(), size_of::<Member>());
    }
}
