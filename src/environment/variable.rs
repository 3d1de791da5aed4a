//! The table of a program's variables, which the parser, the hints and the documentation share.

/// The suffix of a variable that names a file with the value.
pub const FILE_SUFFIX: &str = "_FILE";

/// One variable of a program's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// The name without the prefix. One that ends in `*` stands for all names that begin like it.
    pub name: &'static str,
    /// Whether it is also read without the prefix.
    pub bare: bool,
    /// Whether this version acts on it.
    pub implemented: bool,
    /// Whether it understands the URL that a link to a container or service puts into a variable of its name.
    pub linked: bool,
    /// Whether it holds a shell line, which may begin and end with quotes.
    pub shell: bool,
    /// What holds when it is not set.
    pub default: Fallback,
    /// A valid value, which errors show.
    pub example: &'static str,
    /// What it does, in one line.
    pub meaning: &'static str,
}

/// What holds when a variable is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This text is parsed like a value that was set.
    Text(&'static str),
    /// The value is taken from elsewhere; the text says from where.
    Derived(&'static str),
    /// There is no value: the feature is off, or the other end has the default.
    Unset,
    /// The program does not start.
    Required,
}

/// A program's variables, and the prefix with which each can be written. With an empty prefix all are bare.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// `SIDECAR_`, or empty.
    pub prefix: &'static str,
    /// In the order in which people need them.
    pub variables: &'static [Variable],
}

impl Variable {
    /// A variable that this version acts on, read with the prefix only.
    pub const fn new(
        name: &'static str,
        default: Fallback,
        example: &'static str,
        meaning: &'static str,
    ) -> Variable {
        Variable {
            name,
            bare: false,
            implemented: true,
            linked: false,
            shell: false,
            default,
            example,
            meaning,
        }
    }

    /// Like `self`, but also read without the prefix.
    #[must_use]
    pub const fn bare(self) -> Self {
        Variable { bare: true, ..self }
    }

    /// Like `self`, but it understands the URL of a link.
    #[must_use]
    pub const fn linked(self) -> Self {
        Variable { linked: true, ..self }
    }

    /// Like `self`, but it holds shell lines.
    #[must_use]
    pub const fn shell(self) -> Self {
        Variable { shell: true, ..self }
    }

    /// Like `self`, but known and without effect in this version.
    #[must_use]
    pub const fn later(self) -> Self {
        Variable { implemented: false, ..self }
    }

    /// Whether a link may set a variable of this name: that of Docker to a container, or that of Kubernetes to a service,
    /// whose name is the part before `_PORT` (`SIDECAR_PORT` for a service `sidecar`).
    pub(super) fn may_be_linked(&self) -> bool {
        self.name == "PORT" || self.name.ends_with("_PORT")
    }

    /// Whether values are kept out of logs and errors. METADATA is among them, because people put tokens there.
    pub fn is_secret(&self) -> bool {
        ["METADATA", "ETCD_KEY", "BASIC_AUTH"].contains(&self.name)
            || self.name.ends_with("_TOKEN")
            || self.name.ends_with("_PASSWORD")
            || self.name.starts_with("CLUSTER_SECRET")
    }
}

impl Table {
    /// The entry of `name`, given without the prefix and the suffix.
    pub fn find(&self, name: &str) -> Option<&'static Variable> {
        self.variables.iter().find(|known| match known.name.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => known.name == name,
        })
    }

    /// The name as people should write it: bare where that is allowed, else with the prefix.
    pub fn advertised(&self, variable: &Variable) -> String {
        if variable.bare { variable.name.to_owned() } else { format!("{}{}", self.prefix, variable.name) }
    }

    /// All variables for a person at a terminal, two lines each: the name with its default, and what it does.
    pub fn listing(&self) -> String {
        let mut listing = String::new();
        for known in self.variables.iter().filter(|known| known.implemented) {
            let name = self.advertised(known);
            let default = match known.default {
                Fallback::Text(default) => format!(" ({default})"),
                Fallback::Derived(from) => format!(" (unless set: {from})"),
                Fallback::Required => " (required)".to_owned(),
                Fallback::Unset => String::new(),
            };
            listing += &format!("{name}{default}\n    {}; for example {}\n", known.meaning, known.example);
        }
        listing
    }

    /// The name without our prefix; `None` where it has none.
    pub(super) fn without_prefix<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.prefix).filter(|_| !self.prefix.is_empty())
    }
}

/// The name nearest to `given`, if it is near enough for a typing error.
pub fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A name longer than all of ours cannot be near, and the time is quadratic in the length.
    const LONGEST: usize = 64;
    if given.len() > LONGEST {
        return None;
    }
    let allowed = (given.len() / 3).clamp(1, 3);
    names
        .into_iter()
        .map(|name| (distance(given, name), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// The number of edits (insertion, deletion, replacement, swap of neighbours) between two names, ignoring case.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_uppercase().into_bytes(), b.to_ascii_uppercase().into_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listing_has_a_name_as_it_is_written_its_default_and_what_it_does() {
        const VARIABLES: &[Variable] = &[
            Variable::new("PORT", Fallback::Text("80"), "8080", "the port").bare(),
            Variable::new("HOST", Fallback::Derived("the host's name"), "a", "the host"),
            Variable::new("NAME", Fallback::Required, "b", "the name").bare(),
            Variable::new("TOKEN", Fallback::Unset, "c", "the secret"),
            Variable::new("COLOUR", Fallback::Unset, "red", "nothing yet").later(),
        ];
        let listing = Table { prefix: "OUR_", variables: VARIABLES }.listing();
        assert_eq!(
            listing,
            "PORT (80)\n    the port; for example 8080\n\
             OUR_HOST (unless set: the host's name)\n    the host; for example a\n\
             NAME (required)\n    the name; for example b\n\
             OUR_TOKEN\n    the secret; for example c\n"
        );
    }

    #[test]
    fn slips_of_the_finger_are_near_and_other_words_are_not() {
        assert_eq!(distance("DOMAINS", "DOMIANS"), 1);
        assert_eq!(distance("DOMAINS", "domain"), 1);
        assert_eq!(distance("", "abc"), 3);
        let names = || ["DOMAINS", "PORT", "HEALTH_PATH"].into_iter();
        assert_eq!(nearest("DOMIANS", names()), Some("DOMAINS"));
        assert_eq!(nearest("prot", names()), Some("PORT"));
        assert_eq!(nearest("HEALTHPATH", names()), Some("HEALTH_PATH"));
        assert_eq!(nearest("COLOUR", names()), None);
        assert_eq!(nearest(&"X".repeat(10_000), names()), None);
    }
}
