//! The command's environment: that of this process without the sidecar's own variables, with secrets and composed
//! values (SEMANTICS section 10, "Secrets"). None of its values goes into our own environment, the log or `check`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::environment::{Context, FILE_SUFFIX, Reader, Reported, without_ends};
use registry_client::protocol::Invalid;

use super::variables::PREFIX;

/// The directory in which engines mount secrets.
const SECRETS_DIR: &str = "/run/secrets";
/// What the names of composed variables begin with, after the prefix.
const COMPOSED: &str = "ENV_";
/// The search path where PATH is not set, as in libc.
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// The most names in SECRETS.
const MAX_SECRETS: usize = 256;
/// The longest value, in bytes: `execve` limits a variable with its name to 128 KiB.
const MAX_VALUE: usize = 128 * 1024 - 1024;

/// The environment of a process. `Debug` shows the names only.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Names and values. Use them for the process and nothing else.
    pub fn reveal(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// `vars` without the sidecar's own variables.
    pub(super) fn without_ours(vars: &[(OsString, OsString)]) -> Environment {
        let ours = |name: &OsStr| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        Environment(vars.iter().filter(|(name, _)| !ours(name)).cloned().collect())
    }

    /// The directories in which a program without a path is looked for, as std does it.
    pub fn search_path(&self) -> impl Iterator<Item = PathBuf> {
        let path = self.0.get(OsStr::new("PATH")).cloned().unwrap_or_else(|| DEFAULT_PATH.into());
        std::env::split_paths(&path).collect::<Vec<_>>().into_iter()
    }

    /// Sets a variable.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.into(), value.into());
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(OsStr::new(name))?.to_str()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A name in SECRETS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SecretName {
    name: String,
    optional: bool,
}

/// Parses names separated by commas or blanks, with `?` after those that may be missing.
pub(super) fn parse(text: &str) -> Result<Vec<SecretName>, Invalid> {
    let refuse = |value: &str, reason| Err(Invalid::new("secret", value, reason, "DB_PASSWORD"));
    let mut names: Vec<SecretName> = Vec::new();
    for item in text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty()) {
        let (name, optional) = match item.strip_suffix('?') {
            Some(name) => (name, true),
            None => (item, false),
        };
        if !is_name(name) {
            return refuse(item, "it is no name of a variable (letters, digits, _)");
        }
        if names.iter().any(|other| other.name == name) {
            return refuse(item, "it stands there twice");
        }
        names.push(SecretName { name: name.to_owned(), optional });
    }
    if names.len() > MAX_SECRETS {
        return refuse(text, "more than 256 secrets");
    }
    Ok(names)
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The environment of the command, when `vars` is that of this process.
pub(super) fn environment(
    names: &[SecretName],
    vars: &[(OsString, OsString)],
    context: &Context<'_>,
    reader: &mut Reader,
) -> Result<Environment, Reported> {
    let mut environment = Environment::without_ours(vars);
    let mut complete = Ok(());
    for secret in names {
        let from_file = environment.0.remove(OsStr::new(&format!("{}{FILE_SUFFIX}", secret.name)));
        let from_file = from_file.filter(|path| !path.is_empty());
        match (environment.text(&secret.name).filter(|text| !text.trim().is_empty()), from_file) {
            (Some(_), None) => {}
            (Some(_), Some(_)) => {
                let reason = format!("{}{FILE_SUFFIX} is set as well: keep one of the two", secret.name);
                complete = Err(reader.refuse_named("SECRETS", &secret.name, reason));
            }
            (None, path) => match find(&secret.name, path.as_deref(), context) {
                Ok(text) => environment.set(&secret.name, &text),
                Err(reason) if secret.optional => {
                    environment.0.remove(OsStr::new(&secret.name));
                    reader.warn(format!("the optional secret {} is missing: {reason}", secret.name));
                }
                Err(reason) => {
                    let reason = format!("the secret is missing: {reason}");
                    complete = Err(reader.refuse_named("SECRETS", &secret.name, reason));
                }
            },
        }
    }
    complete?;
    composed(environment, names, vars, reader)
}

/// The secret's text, without line ends and a byte-order mark, not empty, from `path` where NAME_FILE gives one, else from [`SECRETS_DIR`].
fn find(name: &str, path: Option<&OsStr>, context: &Context<'_>) -> Result<String, String> {
    let places: Vec<OsString> = match path {
        Some(path) => vec![path.to_owned()],
        None => {
            let exact = format!("{SECRETS_DIR}/{name}");
            let lower = format!("{SECRETS_DIR}/{}", name.to_ascii_lowercase());
            if exact == lower { vec![exact.into()] } else { vec![exact.into(), lower.into()] }
        }
    };
    let mut reasons = Vec::new();
    for place in places {
        match content(Path::new(&place), context) {
            Ok(text) => return Ok(text),
            Err(reason) => reasons.push(format!("{}: {reason}", place.to_string_lossy())),
        }
    }
    Err(reasons.join("; "))
}

fn content(path: &Path, context: &Context<'_>) -> Result<String, String> {
    let text = String::from_utf8((context.read_file)(path)?).map_err(|_| "it is no UTF-8".to_owned())?;
    // Blanks may be a part of it; a line end and a byte-order mark are an editor's.
    match without_ends(&text) {
        text if text.trim().is_empty() => Err("the file is empty".to_owned()),
        text if text.contains('\0') => Err("a NUL stands in it, which no variable can hold".to_owned()),
        text if text.len() > MAX_VALUE => Err("it is too long for a variable (127 KiB)".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// `environment` with the values that the variables `SIDECAR_ENV_X` compose. They cannot refer to each other.
fn composed(
    environment: Environment,
    names: &[SecretName],
    vars: &[(OsString, OsString)],
    reader: &mut Reader,
) -> Result<Environment, Reported> {
    let mut with_composed = environment.clone();
    let mut complete = Ok(());
    let value = |name: &str| {
        let missing = || names.iter().any(|secret| secret.optional && secret.name == name).then_some("");
        environment.text(name).or_else(missing)
    };
    for (variable, template) in vars {
        let Some(name) = variable.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_prefix(COMPOSED))
        else {
            continue;
        };
        let filled = match (is_name(name), template.to_str()) {
            (_, Some("")) => continue,
            (false, _) => Err("no name of a variable stands behind it".to_owned()),
            (true, None) => Err("its value is no UTF-8".to_owned()),
            (true, Some(template)) => fill(template, value),
        };
        match filled {
            Ok(text) => with_composed.set(name, &text),
            Err(reason) => {
                complete = Err(reader.refuse_named("ENV_*", &format!("{PREFIX}{COMPOSED}{name}"), reason));
            }
        }
    }
    complete.map(|()| with_composed)
}

/// The template with each `%{NAME}` and `%{NAME:url}` replaced. Any other `%` stands for itself.
fn fill<'a>(template: &str, value: impl Fn(&str) -> Option<&'a str>) -> Result<String, String> {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("%{") {
        filled.push_str(before);
        let (inner, after) = after.split_once('}').ok_or("a %{ in it has no }")?;
        let (name, form) = inner.split_once(':').unwrap_or((inner, ""));
        let text = value(name).ok_or_else(|| format!("%{{{name}}}: no secret or variable has that name"))?;
        match form {
            "" => filled.push_str(text),
            "url" => percent_encode(text, &mut filled),
            _ => return Err(format!("%{{{name}:{form}}}: there is no form but :url")),
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Encodes everything but the unreserved characters of RFC 3986.
fn percent_encode(text: &str, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push(char::from(DIGITS[usize::from(byte >> 4)]));
                out.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_take_values_as_they_are_or_percent_encoded() {
        let value = |name: &str| match name {
            "PASSWORD" => Some("p@ss/ä%"),
            "HOST" => Some("db"),
            "NOTHING" => Some(""),
            _ => None,
        };
        let url = "mysql://u:%{PASSWORD:url}@%{HOST}/x?a=100%";
        assert_eq!(fill(url, value).unwrap(), "mysql://u:p%40ss%2F%C3%A4%25@db/x?a=100%");
        assert_eq!(fill("%{PASSWORD}%{NOTHING}.", value).unwrap(), "p@ss/ä%.");
        for wrong in ["%{HOST", "%{PORT}", "%{HOST:base64}"] {
            let reason = fill(wrong, value).unwrap_err();
            assert!(!reason.contains("p@ss"), "{reason}");
        }
    }

    #[test]
    fn the_list_of_secrets_is_a_list_of_names() {
        let names = |text| parse(text).map(|names| names.into_iter().map(|w| (w.name, w.optional)).collect());
        let expected = vec![("A".to_owned(), false), ("B_2".to_owned(), true)];
        assert_eq!(names("A, B_2?").unwrap(), expected);
        for wrong in ["A-B", "1A", "A A", "?", "A=B"] {
            let refused: Result<Vec<_>, _> = names(wrong);
            assert!(refused.is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_of_an_environment_is_its_names() {
        let mut environment = Environment::default();
        environment.set("DB_PASSWORD", "correct horse");
        assert_eq!(format!("{environment:?}"), r#"{"DB_PASSWORD"}"#);
    }
}
