//! The option `auth`: who may use a route (PROTOCOL section 5).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::value::write_joined;
use super::{BackendUrl, HeaderName, HealthPath, Invalid, Scheme};

/// How the proxy finds out whether somebody may use a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Auth {
    /// By name and password.
    Basic(Users),
    /// By asking somebody else.
    Forward(ForwardAuth),
}

/// The most users.
const MAX_USERS: usize = 200;
/// The highest cost of a hash: a check takes a second of a processor then.
const MAX_COST: u8 = 14;

/// Names and the hashes of their passwords. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Users(Arc<[User]>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct User {
    name: String,
    hash: String,
}

impl Users {
    /// The hash of a user's password; of any user's, where there is none of this name, so that a check takes its time.
    pub fn hash(&self, name: &str) -> (bool, &str) {
        match self.0.iter().find(|user| user.name == name) {
            Some(user) => (true, &user.hash),
            None => (false, self.0.first().map_or("", |user| &user.hash)),
        }
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl FromStr for Users {
    type Err = Invalid;

    /// Entries of htpasswd, separated by white space.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |reason: &'static str| Invalid::new("users", "[redacted]", reason, "alice:$2y$05$…");
        let users: Vec<User> = text
            .split_ascii_whitespace()
            .map(|entry| user(entry).map_err(refuse))
            .collect::<Result<_, _>>()?;
        let differ = |(at, user): (usize, &User)| users.iter().take(at).all(|other| other.name != user.name);
        match users.len() {
            0 => Err(refuse("no user stands in it")),
            1..=MAX_USERS if !users.iter().enumerate().all(differ) => {
                Err(refuse("a user stands in it twice"))
            }
            1..=MAX_USERS => Ok(Users(users.into())),
            _ => Err(refuse("more than 200 users")),
        }
    }
}

fn user(entry: &str) -> Result<User, &'static str> {
    let (name, hash) = entry.split_once(':').ok_or("an entry is not of the form name:hash")?;
    if name.is_empty() || name.contains('|') || name.chars().any(char::is_control) {
        return Err("a name is empty, or has '|' or control characters");
    }
    let parts: Vec<&str> = hash.split('$').collect();
    let ["", "2a" | "2b" | "2y", cost, salted] = parts[..] else {
        return Err("a hash is not of bcrypt: make it with htpasswd -B");
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'/';
    if salted.len() != 53 || !salted.bytes().all(is_plain) {
        return Err("a hash of bcrypt is not complete");
    }
    match cost.parse::<u8>() {
        Ok(4..=MAX_COST) if cost.len() == 2 => Ok(User { name: name.to_owned(), hash: hash.to_owned() }),
        _ => Err("the cost of a hash is not from 04 to 14"),
    }
}

/// The headers that tell a backend who somebody is, unless others are named.
const IDENTITY_HEADERS: [&str; 4] = ["Remote-User", "Remote-Groups", "Remote-Name", "Remote-Email"];

/// Whom the proxy asks whether a request may pass.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ForwardAuth {
    /// Where it is, without a path.
    pub url: BackendUrl,
    /// The path and query.
    pub target: HealthPath,
    /// Which headers of its answer the backend gets.
    pub headers: Arc<[HeaderName]>,
}

impl FromStr for ForwardAuth {
    type Err = Invalid;

    /// A URL, and behind a blank the names of headers, separated by commas.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let example = "http://auth:9091/api/authz/forward-auth";
        let refuse = |reason: &'static str| Invalid::new("auth URL", text, reason, example);
        let (url, names) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let authority = url.find("://").map(|at| at + 3).ok_or_else(|| refuse("it has no scheme"))?;
        let path = url[authority..].find('/').map_or(url.len(), |at| authority + at);
        let (root, target) = url.split_at(path);
        let url: BackendUrl = root.parse()?;
        if url.scheme() == Scheme::H2c {
            return Err(refuse("its scheme is neither http nor https"));
        }
        let target = if target.is_empty() { "/" } else { target }.parse()?;
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        let mut headers: Vec<HeaderName> = names.map(str::parse).collect::<Result<_, _>>()?;
        if headers.is_empty() {
            headers = identity_headers();
        }
        Ok(ForwardAuth { url, target, headers: headers.into() })
    }
}

fn identity_headers() -> Vec<HeaderName> {
    IDENTITY_HEADERS.iter().filter_map(|name| name.parse().ok()).collect()
}

impl fmt::Display for ForwardAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.url.to_string();
        write!(f, "{}{}", root.trim_end_matches('/'), self.target)?;
        if *self.headers != *identity_headers() {
            f.write_str(" ")?;
            write_joined(f, &self.headers)?;
        }
        Ok(())
    }
}

const AUTH_EXAMPLE: &str = "forward http://auth:9091/api/authz/forward-auth";

impl FromStr for Auth {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
        match kind {
            "basic" => rest.parse().map(Auth::Basic),
            "forward" => rest.trim().parse().map(Auth::Forward),
            // The text may hold what is to be kept secret.
            _ => Err(Invalid::new("auth", "[redacted]", "it is neither basic nor forward", AUTH_EXAMPLE)),
        }
    }
}

impl Auth {
    /// The text on the wire.
    pub fn value_text(&self) -> String {
        match self {
            Auth::Forward(forward) => format!("forward {forward}"),
            Auth::Basic(users) => {
                let entries = users.0.iter().map(|user| format!(" {}:{}", user.name, user.hash));
                format!("basic{}", entries.collect::<String>())
            }
        }
    }

    /// The text as it may stand in a log.
    pub fn redacted(&self) -> String {
        match self {
            Auth::Forward(_) => self.value_text(),
            Auth::Basic(_) => "basic [redacted]".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuJZ7bYb1yEo5x0bT3oQkq0nZ8y3h8uW2";

    #[test]
    fn users_are_entries_of_htpasswd_made_with_bcrypt() {
        let text = format!("alice:{HASH}\r\nbob:{HASH}\n");
        let users: Users = text.parse().unwrap();
        assert_eq!(users.hash("bob"), (true, HASH));
        assert_eq!(users.hash("eve"), (false, HASH));
        assert!(!format!("{users:?} {:?}", Auth::Basic(users.clone())).contains("$2y$"));
        for refused in [
            String::new(),
            "alice".to_owned(),
            format!(":{HASH}"),
            "alice:$apr1$x$y".to_owned(),
            "alice:{SHA}abc".to_owned(),
            "alice:secret".to_owned(),
            format!("alice:{}", &HASH[..50]),
            format!("alice:{}", HASH.replace("$05$", "$15$")),
            format!("alice:{HASH} alice:{HASH}"),
            format!("a|b:{HASH}"),
        ] {
            let error = refused.parse::<Users>().unwrap_err().to_string();
            assert!(!error.contains("abcdefghij") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn whom_to_ask_is_a_url_with_the_headers_that_count() {
        for (text, shown) in [
            ("http://auth:9091/api/verify?rd=https://login.example.com/", None),
            ("https://auth.example.com", Some("https://auth.example.com/")),
            ("http://auth/x X-User,X-Groups", None),
            ("http://auth/x Remote-User, Remote-Groups,Remote-Name,Remote-Email", Some("http://auth/x")),
        ] {
            let forward: ForwardAuth = text.parse().unwrap();
            assert_eq!(forward.to_string(), shown.unwrap_or(text));
            assert_eq!(forward.to_string().parse::<ForwardAuth>().unwrap(), forward);
        }
        for refused in
            ["", "auth/x", "h2c://auth/x", "http://auth/x a b", "http://user@auth/x", "ftp://auth/"]
        {
            assert!(refused.parse::<ForwardAuth>().is_err(), "{refused:?}");
        }
    }
}
