//! By which cookie a client stays at its instance (SEMANTICS section 2).
//!
//! The cookie's value is a keyed hash of the service and its instance, and one of the backend: an instance may have
//! several. Nothing of it is stored anywhere, so it survives restarts and is the same on all replicas with the same key.

use std::fmt;
use std::time::Instant;

use ring::hmac;

use super::claim::Claim;
use super::member::{Member, MemberId};

/// The name of the cookie.
pub const STICKY_COOKIE: &str = "sticky_instance";

/// What the hash is keyed with.
#[derive(Clone)]
pub struct StickyKey(hmac::Key);

impl StickyKey {
    /// A key from a secret that all replicas have; without a secret, everybody can compute the cookies.
    pub fn new(secret: &str) -> Self {
        let master = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        StickyKey(hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&master, b"sticky cookies").as_ref()))
    }

    /// The value of the cookie that leads to `member`.
    pub fn cookie(&self, member: &Member) -> StickyId {
        StickyId { instance: self.instance(member), backend: self.hash(&[&member.backend.to_string()]) }
    }

    fn instance(&self, member: &Member) -> u64 {
        self.hash(&[member.terms.service.as_str(), member.terms.instance.as_str()])
    }

    /// The beginning of the keyed hash of texts without line ends.
    fn hash(&self, texts: &[&str]) -> u64 {
        let tag = hmac::sign(&self.0, texts.join("\n").as_bytes());
        tag.as_ref().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
    }
}

impl Default for StickyKey {
    fn default() -> Self {
        StickyKey::new("")
    }
}

impl fmt::Debug for StickyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The value of a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StickyId {
    instance: u64,
    backend: u64,
}

impl StickyId {
    /// Reads the value of a cookie; `None`: it is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let both = is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()?;
        Some(StickyId { instance: (both >> 64) as u64, backend: both as u64 })
    }
}

impl fmt::Display for StickyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.instance, self.backend)
    }
}

impl Claim {
    /// The index of the member to which one of these cookies leads, if a request may go there. One that drains gets its own
    /// until its drain is over, and one without weight gets none but its own.
    pub fn choose_sticky(
        &self,
        key: &StickyKey,
        cookies: &[StickyId],
        tried: Option<MemberId>,
        now: Instant,
    ) -> Option<usize> {
        let may = |member: &Member| {
            let load = &member.load;
            member.may_be_asked(tried, now) && !load.is_unreachable() && !load.is_ejected(now)
        };
        let of_instance = |member: &Member| {
            let instance = key.instance(member);
            cookies.iter().any(|cookie| cookie.instance == instance)
        };
        let exact = |at: &usize| cookies.contains(&key.cookie(&self.members[*at]));
        let places = || {
            (0..self.members.len()).filter(|at| {
                let member = &self.members[*at];
                may(member) && of_instance(member)
            })
        };
        places().find(exact).or_else(|| places().next())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{claim, member, unusable};
    use super::*;

    #[test]
    fn a_cookie_leads_to_its_member_with_the_same_key_alone() {
        let claim =
            Claim { members: vec![member(1), member(2), member(3)].into(), ..claim("example.com", "/", 10) };
        let (key, now) = (StickyKey::new("a secret"), Instant::now());
        for at in 0..3 {
            let cookie = key.cookie(&claim.members[at]);
            let read = StickyId::parse(&cookie.to_string()).unwrap();
            assert_eq!(read, cookie);
            assert_eq!(claim.choose_sticky(&StickyKey::new("a secret"), &[read], None, now), Some(at));
            assert_eq!(claim.choose_sticky(&StickyKey::new("another"), &[read], None, now), None);
            assert_eq!(claim.choose_sticky(&key, &[read], Some(claim.members[at].id), now), None, "tried");
        }
        for refused in ["", "7", &"g".repeat(32), &"0".repeat(33), "+0000000000000000000000000000000"] {
            assert_eq!(StickyId::parse(refused), None, "{refused:?}");
        }
    }

    #[test]
    fn who_is_gone_is_not_waited_for() {
        let claim = Claim { members: vec![unusable(1), member(2)].into(), ..claim("example.com", "/", 10) };
        let key = StickyKey::default();
        let cookie = key.cookie(&claim.members[0]);
        assert_eq!(claim.choose_sticky(&key, &[cookie], None, Instant::now()), None);
    }
}
