//! Requests and upgraded connections at a member, counted while they last.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::claim::Claim;
use super::member::{Endpoint, Member};

/// A member that was chosen for a request: a claim's, or the backend of a maintenance page.
#[derive(Debug, Clone)]
pub enum Chosen {
    /// The claim, and the index of the member.
    Of(Arc<Claim>, usize),
    /// The backend of a maintenance page.
    Page(Arc<Member>),
}

impl Deref for Chosen {
    type Target = Member;

    #[inline]
    fn deref(&self) -> &Member {
        match self {
            Chosen::Of(claim, at) => &claim.members[*at],
            Chosen::Page(member) => member,
        }
    }
}

/// A request at a member. It counts as in flight until this is dropped.
#[derive(Debug)]
pub struct InFlight(Chosen);

impl InFlight {
    /// Counts a request at the member; `None`: it takes no more requests. Either this sees that the member was
    /// closed, or the one that closed it sees the request.
    pub fn admit(chosen: Chosen) -> Option<Self> {
        chosen.load.in_flight.fetch_add(1, Ordering::SeqCst);
        let admitted = InFlight(chosen);
        (!admitted.load.is_closed()).then_some(admitted)
    }

    /// The request becomes an upgraded connection, which no longer counts as in flight.
    pub fn into_upgraded(self) -> Upgraded {
        self.load.upgraded.fetch_add(1, Ordering::Relaxed);
        Upgraded(Arc::clone(&self.endpoint))
    }
}

impl Deref for InFlight {
    type Target = Chosen;

    #[inline]
    fn deref(&self) -> &Chosen {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An upgraded connection at a member. It counts until this is dropped.
#[derive(Debug)]
pub struct Upgraded(Arc<Endpoint>);

impl Upgraded {
    /// Whether the member is gone for good, so that the connection must close.
    pub fn has_left(&self) -> bool {
        self.0.load.has_left()
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        self.0.load.upgraded.fetch_sub(1, Ordering::Relaxed);
    }
}
