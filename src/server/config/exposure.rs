//! What a neighbour that is not trusted could do with a configuration: somebody on the network of the proxy who speaks the
//! registry's protocol. For `registry-server check --untrusted`.

use super::Config;

/// What is open, and the line that closes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exposure {
    /// What a neighbour can do.
    pub what: &'static str,
    /// What to set.
    pub close: &'static str,
}

impl Config {
    /// What is open to neighbours that are not trusted.
    pub fn exposures(&self) -> Vec<Exposure> {
        let policy = self.registry_policy.as_ref().map(|file| &file.policy);
        let has_secrets = policy.is_some_and(|policy| policy.has_secrets());
        let all = [
            (
                self.registry_token.is_none(),
                "anybody who reaches the registry may register",
                "REGISTRY_TOKEN_FILE=/run/secrets/registry_token",
            ),
            (
                policy.is_none(),
                "any service may claim any domain that nobody has at the moment, and learns who has which",
                "REGISTRY_POLICY=/etc/registry-policy.json",
            ),
            (
                !has_secrets,
                "any client may call itself by a service's name while that is away",
                "\"secrets\": {\"shop\": [\"sha256:…\"]} in REGISTRY_POLICY",
            ),
            (
                !self.exclusive_hosts && !policy.is_some_and(|policy| policy.has_exclusive()),
                "a service may claim a path of another service's host",
                "HOSTS=first",
            ),
            (
                self.backend_allow.is_none(),
                "a service may send the proxy to any private address",
                "BACKEND_ALLOW=10.2.2.0/24",
            ),
        ];
        all.into_iter()
            .filter(|(is_open, ..)| *is_open)
            .map(|(_, what, close)| Exposure { what, close })
            .collect()
    }
}
