//! Turns the environment into one text for each variable: decides which spelling wins, reads files, and finds names
//! that nobody reads. It does not know what the texts mean.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::Context;
use super::error::Problem;
use super::variable::{FILE_SUFFIX, Table, Variable, nearest};

/// The texts of an environment, and the mistakes found so far.
pub struct Source {
    pub(super) table: Table,
    /// By the name in the table.
    pub(super) values: BTreeMap<&'static str, Given>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    /// Names that are set but that nobody reads; a misspelled one may be among them.
    pub(super) unread: Vec<String>,
}

/// A variable's text and where it came from.
pub(super) struct Given {
    pub(super) text: String,
    /// The name as it was written.
    pub(super) variable: String,
    /// The file that held the text.
    pub(super) file: Option<String>,
}

impl Given {
    /// The variable that takes the text itself, whether or not it came from a file.
    pub(super) fn of_text(&self) -> &str {
        match self.file {
            Some(_) => self.variable.trim_end_matches(FILE_SUFFIX),
            None => &self.variable,
        }
    }
}

impl Source {
    /// Reads the variables of `table` from `vars` by the rules of SEMANTICS section 10.
    pub fn read(
        table: Table,
        vars: impl IntoIterator<Item = (OsString, OsString)>,
        context: &Context<'_>,
    ) -> Source {
        let mut source = Source {
            table,
            values: BTreeMap::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            unread: Vec::new(),
        };
        let set = source.sort_out(vars);
        for variable in table.variables.iter().filter(|variable| variable.implemented) {
            if let Some(given) = source.pick(variable, &set, context) {
                source.values.insert(variable.name, given);
            }
        }
        source
    }

    /// Returns the variables that are set and may be read, and warns about those with our prefix that have no effect.
    fn sort_out(
        &mut self,
        vars: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> BTreeMap<String, OsString> {
        let mut set = BTreeMap::new();
        // A program whose table has no prefix runs alone, so all names are meant for it.
        let alone = self.table.prefix.is_empty();
        for (name, value) in vars {
            // None of our names has bytes that are not UTF-8.
            let Ok(name) = name.into_string() else { continue };
            if let Some(meant) = name.strip_prefix('\u{feff}') {
                self.warnings.push(format!(
                    "a byte-order mark stands before the name {meant}, so nobody reads it: save the env file without"
                ));
                continue;
            }
            if is_blank(&value) {
                continue;
            }
            let base = self.table.without_prefix(&name);
            match (base, known(&self.table, base.unwrap_or(&name))) {
                (prefixed, Some(variable)) if !variable.implemented && (prefixed.is_some() || alone) => {
                    self.warnings.push(format!("{name} has no effect in this version"));
                }
                (Some(_), Some(_)) => drop(set.insert(name, value)),
                (None, Some(variable)) if variable.bare && variable.implemented => {
                    set.insert(name, value);
                }
                (Some(base), None) => {
                    self.warnings.push(unknown(&self.table, &name, base));
                    self.unread.push(name);
                }
                (None, _) => self.unread.push(name),
            }
        }
        // The order of an environment is not defined; make the messages stable.
        self.warnings.sort();
        self.unread.sort();
        set
    }

    /// The text of one variable, from its value or its file. The spelling with the prefix wins over the bare one.
    fn pick(
        &mut self,
        variable: &Variable,
        set: &BTreeMap<String, OsString>,
        context: &Context<'_>,
    ) -> Option<Given> {
        let prefix = self.table.prefix;
        let prefixes: &[&str] = if variable.bare && !prefix.is_empty() { &[prefix, ""] } else { &[prefix] };
        for prefix in prefixes {
            let direct = format!("{prefix}{}", variable.name);
            let file = format!("{direct}{FILE_SUFFIX}");
            match (set.get(&direct), set.get(&file)) {
                (None, None) => {}
                (Some(_), Some(_)) => {
                    let reason = format!("{file} is set as well: keep one of the two");
                    self.problems.push(Problem::new(direct, None, reason));
                    return None;
                }
                (Some(value), None) => {
                    if !self.is_of_a_link(variable, &direct, value) {
                        return self.direct(variable, direct, value);
                    }
                }
                (None, Some(path)) => return self.read_file(variable, file, path, context),
            }
        }
        None
    }

    fn direct(&mut self, variable: &Variable, name: String, value: &OsStr) -> Option<Given> {
        let Some(text) = value.to_str() else {
            let line = format!("{name}={}", variable.example);
            self.problems.push(Problem::new(name, None, "its value is no UTF-8").example(line));
            return None;
        };
        let text = trimmed(variable, text).to_owned();
        self.without_quotes(variable, Given { text, variable: name, file: None })
    }

    /// Whether the value is the URL that a link puts into a variable of this name. The user did not write it, so it is
    /// ignored, unless the variable understands it.
    fn is_of_a_link(&mut self, variable: &Variable, name: &str, value: &OsStr) -> bool {
        let is_url = value.to_str().is_some_and(is_link);
        let is_one = is_url && variable.may_be_linked() && !variable.linked;
        if is_one {
            let service = name.strip_suffix("PORT").unwrap_or(name).trim_end_matches('_');
            let linked = match service {
                "" => "a container or service".to_owned(),
                service => {
                    format!("the container or service {:?}", service.to_ascii_lowercase().replace('_', "-"))
                }
            };
            self.warnings.push(format!(
                "{name}={} is ignored: a link to {linked} has set it (Kubernetes does that unless enableServiceLinks is \
                 false); write the port into {}{}",
                value.to_string_lossy(),
                self.table.prefix,
                if self.table.without_prefix(name).is_some() { "APP_PORT" } else { variable.name },
            ));
        }
        is_one
    }

    /// Refuses a value with quotes around it, which an env file of Docker does not remove. A shell line or a secret may
    /// have them on purpose, so there they are only pointed out.
    fn without_quotes(&mut self, variable: &Variable, given: Given) -> Option<Given> {
        if !is_quoted(&given.text) {
            return Some(given);
        }
        let from = match given.file {
            Some(_) => "in the file",
            None => "an env file takes them as a part of it",
        };
        let reason = format!("quotes stand around the value ({from}): leave them out");
        // METADATA is kept secret and is JSON all the same.
        if variable.shell || (variable.is_secret() && variable.name != "METADATA") {
            self.warnings.push(format!("{}: {reason}, unless they are meant", given.variable));
            return Some(given);
        }
        let text = (!variable.is_secret()).then_some(&given.text);
        let shown = given.file.as_ref().or(text).map(String::as_str);
        let line = format!("{}={}", given.of_text(), variable.example);
        self.problems.push(Problem::new(&given.variable, shown, reason).example(line));
        None
    }

    fn read_file(
        &mut self,
        variable: &Variable,
        name: String,
        path: &OsStr,
        context: &Context<'_>,
    ) -> Option<Given> {
        let shown = path.to_string_lossy().into_owned();
        let content = (context.read_file)(Path::new(path)).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| "what the file holds is no UTF-8".to_owned())
        });
        match content {
            Err(reason) => {
                let line = format!("{name}=/run/secrets/{}", variable.name.to_ascii_lowercase());
                self.problems.push(Problem::new(name, Some(&shown), reason).example(line));
                None
            }
            // Who names a file wants what is in it. Without REGISTRY_TOKEN, for example, the registry would be open.
            Ok(content) if content.trim().is_empty() => {
                let reason = "the file is empty: fill it, or leave the variable out".to_owned();
                self.problems.push(Problem::new(name, Some(&shown), reason));
                None
            }
            Ok(content) => {
                let text = trimmed(variable, without_ends(&content)).to_owned();
                self.without_quotes(variable, Given { text, variable: name, file: Some(shown) })
            }
        }
    }

    /// The text of a variable, by its name in the table; `None` where it is not set.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|given| given.text.as_str())
    }

    /// A hint where one of the names that nobody reads may be a misspelling of one of `wanted`.
    pub(super) fn misspelled(&self, wanted: &[&str]) -> Option<String> {
        self.unread.iter().find_map(|name| {
            let base = self.table.without_prefix(name).unwrap_or(name);
            let meant = nearest(base, wanted.iter().copied())?;
            let right = self.table.advertised(self.table.find(meant)?);
            Some(format!("{name} is set: is {right} meant?"))
        })
    }
}

/// The table's entry for a name without its prefix, which may end in `_FILE`.
fn known(table: &Table, base: &str) -> Option<&'static Variable> {
    table.find(base).or_else(|| table.find(base.strip_suffix(FILE_SUFFIX)?))
}

fn unknown(table: &Table, name: &str, base: &str) -> String {
    let (stem, suffix) = match base.strip_suffix(FILE_SUFFIX) {
        Some(stem) => (stem, FILE_SUFFIX),
        None => (base, ""),
    };
    let prefix = table.prefix;
    match nearest(stem, table.variables.iter().map(|known| known.name)) {
        Some(near) => format!("{name} is unknown and has no effect: is {prefix}{near}{suffix} meant?"),
        None => format!("{name} is unknown and has no effect"),
    }
}

/// Whether it is what links put into variables: a scheme, and a host with a port.
fn is_link(text: &str) -> bool {
    let Some((scheme, rest)) = text.trim().split_once("://") else { return false };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    is_scheme && rest.contains(':')
}

/// Whether it is one text in quotes, with no further ones of that kind inside.
fn is_quoted(text: &str) -> bool {
    let inner = |quote| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    ['\'', '"'].into_iter().any(|quote| inner(quote).is_some_and(|inner| !inner.contains(quote)))
}

/// What a file holds without the line ends behind it and a byte-order mark before it, which editors add.
pub fn without_ends(content: &str) -> &str {
    content.strip_prefix('\u{feff}').unwrap_or(content).trim_end_matches(['\n', '\r'])
}

/// The text without the blanks around it, which only a secret may need.
fn trimmed<'a>(variable: &Variable, text: &'a str) -> &'a str {
    if variable.is_secret() { text } else { text.trim() }
}

fn is_blank(value: &OsStr) -> bool {
    value.to_str().is_some_and(|text| text.trim().is_empty())
}
