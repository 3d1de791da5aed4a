//! How two replicas show each other that they know CLUSTER_SECRET, and which of them leads (pure).
//!
//! The replica greets with a nonce, the leader's name and the epoch in which it takes the other for the leader. The leader
//! answers with a nonce and a MAC over both, and the replica with a MAC of its own. Each MAC covers the nonces, the epoch
//! and both names, so none can be used for another connection, another leader, or in the other direction. Of the secrets,
//! the one is used that both know, so a new CLUSTER_SECRET is rolled out with the former one as CLUSTER_SECRET_PREVIOUS.
//! The keys for the messages that follow come from the same secret and the same nonces ([`super::seal`]).

use bytes::{Buf, BufMut};
use ring::hmac::{self, HMAC_SHA256, Key};

use crate::environment::Secret;

/// The version of the greeting and of the messages.
const VERSION: u16 = 1;
/// With what a greeting begins.
const MAGIC: &[u8; 4] = b"RSCL";
/// The longest name of a replica.
pub(super) const MAX_NAME: usize = 255;
/// The longest part of a handshake.
pub(super) const MAX_PART: usize = 1024;
/// How much of a MAC tells which secret it was made with.
const KEY_ID: usize = 8;
const MAC: usize = 32;

/// 256 random bits, used once.
pub(super) type Nonce = [u8; 32];

/// CLUSTER_SECRET and CLUSTER_SECRET_PREVIOUS.
#[derive(Clone)]
pub(super) struct Secrets(Vec<Key>);

/// Who connects to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parties {
    /// The epoch in which `leader` leads.
    pub(super) epoch: u64,
    /// The replica that connects.
    pub(super) replica: String,
    /// The one that it connects to.
    pub(super) leader: String,
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// What came is no handshake.
    #[error("it does not speak the language of registry servers")]
    Malformed,
    /// Another version.
    #[error("it has another version of the connection between servers")]
    OtherVersion,
    /// Neither of the secrets is known to both.
    #[error("its CLUSTER_SECRET is another one")]
    OtherSecret,
    /// The greeted one is another replica, or does not lead in this epoch.
    #[error("it does not lead any more, or not yet")]
    NotLeader,
}

/// The keys for what follows a handshake.
#[derive(Debug, Clone)]
pub(super) struct SessionKeys {
    pub(super) to_leader: Key,
    pub(super) from_leader: Key,
}

/// The greeting that a replica has sent.
pub(super) struct Greeting<'s> {
    secrets: &'s Secrets,
    bytes: Vec<u8>,
    nonce: Nonce,
}

/// What a leader waits for after its challenge.
pub(super) struct Challenged {
    key: Key,
    transcript: Vec<u8>,
    parties: Parties,
}

impl Secrets {
    /// Both secrets are valid; ours is told by the first.
    pub(super) fn new(current: &Secret, previous: Option<&Secret>) -> Self {
        let key = |secret: &Secret| Key::new(HMAC_SHA256, secret.reveal().as_bytes());
        Secrets(std::iter::once(current).chain(previous).map(key).collect())
    }

    /// The first part of a handshake.
    pub(super) fn greet(&self, parties: &Parties, nonce: Nonce) -> Greeting<'_> {
        let mut bytes = Vec::with_capacity(128);
        bytes.put_slice(MAGIC);
        bytes.put_u16(VERSION);
        bytes.put_u64(parties.epoch);
        put_name(&mut bytes, &parties.replica);
        put_name(&mut bytes, &parties.leader);
        bytes.put_slice(&nonce);
        self.0.iter().for_each(|key| bytes.put_slice(&key_id(key, &nonce)));
        Greeting { secrets: self, bytes, nonce }
    }

    /// The leader's answer to a greeting: the challenge, or the refusal that the replica is told. `leads` is the epoch in
    /// which `name` leads.
    pub(super) fn challenge(
        &self,
        name: &str,
        leads: Option<u64>,
        greeting: &[u8],
        nonce: Nonce,
    ) -> Result<(Vec<u8>, Challenged), Refused> {
        let Greeted { parties, nonce: theirs, key_ids } = Greeted::read(greeting)?;
        let known = |key: &&Key| key_ids.chunks(KEY_ID).any(|id| id == key_id(key, &theirs));
        let key = self.0.iter().find(known).ok_or(Refused::OtherSecret)?;
        if parties.leader != name || leads != Some(parties.epoch) {
            return Err(Refused::NotLeader);
        }
        let transcript = [greeting, &nonce[..]].concat();
        let mut bytes = vec![0];
        bytes.put_slice(&nonce);
        bytes.put_slice(&key_id(key, &theirs));
        bytes.put_slice(sign(key, b"leader", &transcript).as_ref());
        Ok((bytes, Challenged { key: key.clone(), transcript, parties }))
    }
}

impl Refused {
    /// How a leader tells the replica.
    pub(super) fn encode(self) -> Vec<u8> {
        vec![match self {
            Refused::Malformed => 1,
            Refused::OtherVersion => 2,
            Refused::OtherSecret => 3,
            Refused::NotLeader => 4,
        }]
    }

    fn decode(code: u8) -> Self {
        match code {
            2 => Refused::OtherVersion,
            3 => Refused::OtherSecret,
            4 => Refused::NotLeader,
            _ => Refused::Malformed,
        }
    }
}

impl Greeting<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The replica's answer to the challenge, and the keys for what follows.
    pub(super) fn answer(&self, mut challenge: &[u8]) -> Result<(Vec<u8>, SessionKeys), Refused> {
        let code = challenge.try_get_u8().map_err(|_| Refused::Malformed)?;
        if code != 0 {
            return Err(Refused::decode(code));
        }
        if challenge.len() != size_of::<Nonce>() + KEY_ID + MAC {
            return Err(Refused::Malformed);
        }
        let (nonce, rest) = challenge.split_at(size_of::<Nonce>());
        let (id, mac) = rest.split_at(KEY_ID);
        let ours = |key: &&Key| key_id(key, &self.nonce) == id;
        let key = self.secrets.0.iter().find(ours).ok_or(Refused::OtherSecret)?;
        let transcript = [&self.bytes[..], nonce].concat();
        verify(key, b"leader", &transcript, mac)?;
        let proof = sign(key, b"replica", &transcript).as_ref().to_vec();
        Ok((proof, SessionKeys::derive(key, &transcript)))
    }
}

impl Challenged {
    /// Who greeted. Nothing is proved until [`Challenged::check`].
    pub(super) fn parties(&self) -> &Parties {
        &self.parties
    }

    /// Whether the replica knows the secret; then the keys for what follows.
    pub(super) fn check(&self, proof: &[u8]) -> Result<SessionKeys, Refused> {
        verify(&self.key, b"replica", &self.transcript, proof)?;
        Ok(SessionKeys::derive(&self.key, &self.transcript))
    }
}

impl SessionKeys {
    fn derive(secret: &Key, transcript: &[u8]) -> Self {
        let key = |label: &[u8]| Key::new(HMAC_SHA256, sign(secret, label, transcript).as_ref());
        SessionKeys { to_leader: key(b"to leader"), from_leader: key(b"from leader") }
    }
}

/// A greeting as it was read.
struct Greeted<'b> {
    parties: Parties,
    nonce: Nonce,
    key_ids: &'b [u8],
}

impl<'b> Greeted<'b> {
    fn read(mut bytes: &'b [u8]) -> Result<Self, Refused> {
        let malformed = |_| Refused::Malformed;
        let mut magic = [0; MAGIC.len()];
        bytes.try_copy_to_slice(&mut magic).map_err(malformed)?;
        if magic != *MAGIC {
            return Err(Refused::Malformed);
        }
        if bytes.try_get_u16().map_err(malformed)? != VERSION {
            return Err(Refused::OtherVersion);
        }
        let epoch = bytes.try_get_u64().map_err(malformed)?;
        let (replica, leader) = (name(&mut bytes)?, name(&mut bytes)?);
        let mut nonce = [0; size_of::<Nonce>()];
        bytes.try_copy_to_slice(&mut nonce).map_err(malformed)?;
        if bytes.is_empty() || bytes.len() % KEY_ID != 0 {
            return Err(Refused::Malformed);
        }
        Ok(Greeted { parties: Parties { epoch, replica, leader }, nonce, key_ids: bytes })
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    let mut end = name.len().min(MAX_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u8(end as u8);
    out.put_slice(&name.as_bytes()[..end]);
}

fn name(bytes: &mut &[u8]) -> Result<String, Refused> {
    let length = bytes.try_get_u8().map_err(|_| Refused::Malformed)?;
    let (name, rest) = bytes.split_at_checked(length.into()).ok_or(Refused::Malformed)?;
    *bytes = rest;
    String::from_utf8(name.to_vec()).map_err(|_| Refused::Malformed)
}

/// Tells which secret a key is, to whoever knows the secret, and for this nonce only.
fn key_id(key: &Key, nonce: &Nonce) -> [u8; KEY_ID] {
    let mut id = [0; KEY_ID];
    id.copy_from_slice(&sign(key, b"key", nonce).as_ref()[..KEY_ID]);
    id
}

fn sign(key: &Key, label: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(key, &labelled(label, message))
}

fn verify(key: &Key, label: &[u8], message: &[u8], mac: &[u8]) -> Result<(), Refused> {
    hmac::verify(key, &labelled(label, message), mac).map_err(|_| Refused::OtherSecret)
}

/// The message behind its label, whose length makes the end of it known.
fn labelled(label: &[u8], message: &[u8]) -> Vec<u8> {
    [&[label.len() as u8], label, message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Nonce = [1; 32];
    const THEIRS: Nonce = [2; 32];

    fn secrets(current: &str, previous: Option<&str>) -> Secrets {
        Secrets::new(&Secret::new(current), previous.map(Secret::new).as_ref())
    }

    fn parties() -> Parties {
        Parties { epoch: 7, replica: "b".to_owned(), leader: "a".to_owned() }
    }

    /// The whole handshake; the leader's and the replica's keys must be the same.
    fn shake(replica: &Secrets, leader: &Secrets) -> Result<Parties, Refused> {
        let greeting = replica.greet(&parties(), OURS);
        let (challenge, waiting) = leader.challenge("a", Some(7), greeting.bytes(), THEIRS)?;
        let (proof, ours) = greeting.answer(&challenge)?;
        let theirs = waiting.check(&proof)?;
        for (one, other) in [(&ours.to_leader, &theirs.to_leader), (&ours.from_leader, &theirs.from_leader)] {
            assert_eq!(hmac::sign(one, b"x").as_ref(), hmac::sign(other, b"x").as_ref());
        }
        assert_ne!(
            hmac::sign(&ours.to_leader, b"x").as_ref(),
            hmac::sign(&ours.from_leader, b"x").as_ref(),
            "a message of one direction must not be valid in the other"
        );
        Ok(waiting.parties().clone())
    }

    #[test]
    fn who_knows_the_secret_is_let_in_and_told_who_it_is() {
        assert_eq!(shake(&secrets("s", None), &secrets("s", None)), Ok(parties()));
    }

    #[test]
    fn a_secret_is_rolled_out_one_replica_after_the_other() {
        let (old, both, new) = (secrets("old", None), secrets("new", Some("old")), secrets("new", None));
        for (replica, leader) in [(&old, &both), (&both, &old), (&both, &both), (&both, &new), (&new, &both)]
        {
            assert_eq!(shake(replica, leader), Ok(parties()));
        }
        assert_eq!(shake(&old, &new), Err(Refused::OtherSecret));
        assert_eq!(shake(&new, &old), Err(Refused::OtherSecret));
    }

    #[test]
    fn only_the_leader_of_this_epoch_takes_a_replica() {
        let ours = secrets("s", None);
        let greeting = ours.greet(&parties(), OURS);
        for (name, leads) in [("a", None), ("a", Some(6)), ("a", Some(8)), ("c", Some(7))] {
            let refused = ours.challenge(name, leads, greeting.bytes(), THEIRS).err();
            assert_eq!(refused, Some(Refused::NotLeader), "{name} {leads:?}");
        }
    }

    #[test]
    fn nothing_of_one_handshake_serves_in_another() {
        let ours = secrets("s", None);
        let greeting = ours.greet(&parties(), OURS);
        let (challenge, waiting) = ours.challenge("a", Some(7), greeting.bytes(), THEIRS).unwrap();
        let (proof, _) = greeting.answer(&challenge).unwrap();
        // Another nonce of the leader: a recorded proof is worthless.
        let (_, again) = ours.challenge("a", Some(7), greeting.bytes(), [3; 32]).unwrap();
        assert_eq!(again.check(&proof).err(), Some(Refused::OtherSecret));
        // Another nonce of the replica: so is a recorded challenge.
        let other = ours.greet(&parties(), [4; 32]);
        assert_eq!(other.answer(&challenge).err(), Some(Refused::OtherSecret));
        // Another epoch.
        let later = Parties { epoch: 8, ..parties() };
        assert_eq!(ours.greet(&later, OURS).answer(&challenge).err(), Some(Refused::OtherSecret));
        // The leader's own MAC, sent back.
        let mac = &challenge[challenge.len() - MAC..];
        assert_eq!(waiting.check(mac).err(), Some(Refused::OtherSecret));
    }

    #[test]
    fn a_stranger_is_told_what_it_is_not() {
        let ours = secrets("s", None);
        let challenge = |bytes: &[u8]| ours.challenge("a", Some(7), bytes, THEIRS).err();
        let good = ours.greet(&parties(), OURS).bytes().to_vec();
        for end in 0..good.len() {
            assert_eq!(challenge(&good[..end]), Some(Refused::Malformed), "{end} bytes");
        }
        assert_eq!(challenge(b"GET / HTTP/1.1\r\n"), Some(Refused::Malformed));
        let mut newer = good.clone();
        newer[5] = 2;
        assert_eq!(challenge(&newer), Some(Refused::OtherVersion));
        for refused in [Refused::Malformed, Refused::OtherVersion, Refused::OtherSecret, Refused::NotLeader] {
            let told = ours.greet(&parties(), OURS).answer(&refused.encode()).err();
            assert_eq!(told, Some(refused));
        }
        let greeting = ours.greet(&parties(), OURS);
        assert_eq!(greeting.answer(&[]).err(), Some(Refused::Malformed));
        assert_eq!(greeting.answer(&[0; 20]).err(), Some(Refused::Malformed));
    }

    #[test]
    fn a_long_name_is_cut_and_the_greeting_fits() {
        let ours = secrets("s", Some("t"));
        let long = Parties { epoch: 1, replica: "ä".repeat(200), leader: "b".repeat(400) };
        let greeting = ours.greet(&long, OURS);
        assert!(greeting.bytes().len() <= MAX_PART);
        let read = Greeted::read(greeting.bytes()).unwrap();
        assert_eq!(read.parties.replica, "ä".repeat(127));
        assert_eq!(read.parties.leader, "b".repeat(255));
    }
}
