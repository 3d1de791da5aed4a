//! The members of a claim, in the order in which they joined: a list that needs no memory of its own for one, which
//! most claims have.

use std::ops::{Deref, DerefMut};
use std::slice;

use super::{Member, MemberId};

/// A claim's members.
#[derive(Debug, Clone)]
pub struct Members(List);

#[derive(Debug, Clone)]
enum List {
    One(Member),
    Many(Vec<Member>),
}

impl Default for Members {
    /// None.
    fn default() -> Self {
        Members(List::Many(Vec::new()))
    }
}

impl From<Vec<Member>> for Members {
    fn from(members: Vec<Member>) -> Self {
        Members(match <[Member; 1]>::try_from(members) {
            Ok([one]) => List::One(one),
            Err(members) => List::Many(members),
        })
    }
}

impl Members {
    /// One more joins.
    pub fn push(&mut self, member: Member) {
        *self = match std::mem::take(self).0 {
            List::One(first) => Members(List::Many(vec![first, member])),
            List::Many(members) if members.is_empty() => Members(List::One(member)),
            List::Many(mut members) => {
                // They have just been copied into as much as they take.
                members.reserve_exact(1);
                members.push(member);
                Members(List::Many(members))
            }
        };
    }

    /// One leaves; nothing happens where it is not there.
    pub fn remove(&mut self, id: MemberId) {
        let mut members = match std::mem::take(self).0 {
            List::One(member) => vec![member],
            List::Many(members) => members,
        };
        members.retain(|member| member.id != id);
        *self = members.into();
    }
}

impl Deref for Members {
    type Target = [Member];

    fn deref(&self) -> &[Member] {
        match &self.0 {
            List::One(member) => slice::from_ref(member),
            List::Many(members) => members,
        }
    }
}

impl DerefMut for Members {
    fn deref_mut(&mut self) -> &mut [Member] {
        match &mut self.0 {
            List::One(member) => slice::from_mut(member),
            List::Many(members) => members,
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
    fn they_stay_in_the_order_in_which_they_joined() {
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
    fn one_takes_no_more_than_itself() {
        assert_eq!(size_of::<Members>(), size_of::<Member>());
    }
}
