//! Checks passwords against the hashes of bcrypt, which take a processor 50 ms each: beside the workers, few at a time, and
//! with a memory for what was found.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use registry_client::protocol::Users;
use ring::{hmac, rand};
use tokio::sync::Semaphore;

/// How long a right password is remembered, and a wrong one.
const RIGHT_FOR: Duration = Duration::from_secs(300);
const WRONG_FOR: Duration = Duration::from_secs(10);
/// How many are remembered. One more clears all of them.
const MAX_REMEMBERED: usize = 4096;
/// How many checks run at once.
const MAX_RUNNING: usize = 2;
/// How many requests may wait for a check, those that run included.
const MAX_WAITING: usize = 256;

/// The result of a check with what was given and the hash, as a hash whose key only this process has.
type Checked = [u8; 32];

/// So many requests wait for a check that this one may not.
pub(crate) struct Busy;

/// The checks of a proxy, on whichever worker.
pub(crate) struct PasswordChecks {
    /// `None`: there is no randomness, so nothing is remembered.
    key: Option<hmac::Key>,
    remembered: Mutex<HashMap<Checked, (bool, Instant)>>,
    running: Semaphore,
    waiting: Semaphore,
}

impl Default for PasswordChecks {
    fn default() -> Self {
        PasswordChecks {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new()).ok(),
            remembered: Mutex::default(),
            running: Semaphore::new(MAX_RUNNING),
            waiting: Semaphore::new(MAX_WAITING),
        }
    }
}

impl PasswordChecks {
    /// Whether the user has this password. A name that is unknown takes as long as a wrong password.
    pub(crate) async fn check(&self, users: &Users, name: &str, password: &str) -> Result<bool, Busy> {
        let (is_known, hash) = users.hash(name);
        let asked = self.asked(name, password, hash);
        if let Some(result) = self.recall(asked.as_ref()) {
            return Ok(result);
        }
        let _place = self.waiting.try_acquire().map_err(|_| Busy)?;
        let _turn = self.running.acquire().await.map_err(|_| Busy)?;
        // A browser asks for a whole page at once: the first of its requests has found it out.
        if let Some(result) = self.recall(asked.as_ref()) {
            return Ok(result);
        }
        let (password, hash) = (password.to_owned(), hash.to_owned());
        let checking = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false));
        let result = checking.await.unwrap_or(false) && is_known;
        self.remember(asked, result);
        Ok(result)
    }

    fn asked(&self, name: &str, password: &str, hash: &str) -> Option<Checked> {
        let text = format!("{}:{name}{}:{password}{hash}", name.len(), password.len());
        hmac::sign(self.key.as_ref()?, text.as_bytes()).as_ref().try_into().ok()
    }

    fn recall(&self, asked: Option<&Checked>) -> Option<bool> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (result, until) = remembered.get(asked?)?;
        (Instant::now() < *until).then_some(*result)
    }

    fn remember(&self, asked: Option<Checked>, result: bool) {
        let Some(asked) = asked else { return };
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        let time = if result { RIGHT_FOR } else { WRONG_FOR };
        remembered.insert(asked, (result, Instant::now() + time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_found_is_remembered_for_these_very_words_alone() {
        let hash = bcrypt::hash("open sesame", 4).unwrap();
        let users: Users = format!("alice:{hash}").parse().unwrap();
        let checks = PasswordChecks::default();
        for _ in 0..2 {
            for (name, password, expected) in
                [("alice", "open sesame", true), ("alice", "open", false), ("bob", "open sesame", false)]
            {
                let found = checks.check(&users, name, password).await;
                assert_eq!(found.ok(), Some(expected), "{name} {password}");
            }
        }
        assert_eq!(checks.remembered.lock().unwrap().len(), 3);
        let others: Users = format!("alice:{}", bcrypt::hash("another", 4).unwrap()).parse().unwrap();
        assert_eq!(
            checks.check(&others, "alice", "open sesame").await.ok(),
            Some(false),
            "the hash has changed"
        );
        let _all = checks.waiting.acquire_many(MAX_WAITING as u32).await.unwrap();
        assert_eq!(checks.check(&users, "alice", "open sesame").await.ok(), Some(true), "it takes no check");
        assert!(checks.check(&users, "alice", "something else").await.is_err());
    }
}
