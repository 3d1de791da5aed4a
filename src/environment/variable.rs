//! Which variables a program knows: a table that the parser, the hints and the documentation share.

/// The suffix of the variant that names a file with the value.
pub const FILE_SUFFIX: &str = "_FILE";

/// One variable of a program's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Without the prefix. A name that ends in `*` stands for all that begin like it.
    pub name: &'static str,
    /// Whether it is read without the prefix as well.
    pub bare: bool,
    /// Whether this version acts on it.
    pub implemented: bool,
    /// What holds when it is not set.
    pub default: Fallback,
    /// A value that would be accepted; errors show it.
    pub example: &'static str,
    /// What it does, in one line.
    pub meaning: &'static str,
}

/// What holds when a variable is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This text, read like a value that was set.
    Text(&'static str),
    /// Something taken from elsewhere; the text says what.
    Derived(&'static str),
    /// Nothing: the feature is off or the default is the other end's.
    Unset,
    /// Nothing, and the program does not start.
    Required,
}

/// A program's variables and the prefix under which every one of them exists and wins; without a prefix all
/// are bare.
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
        Variable { name, bare: false, implemented: true, default, example, meaning }
    }

    /// The same, read without the prefix as well.
    #[must_use]
    pub const fn bare(self) -> Self {
        Variable { bare: true, ..self }
    }

    /// The same, known but without effect in this version.
    #[must_use]
    pub const fn later(self) -> Self {
        Variable { implemented: false, ..self }
    }

    /// Whether values are kept out of logs and errors. METADATA is one of them, because tokens end up there.
    pub fn is_secret(&self) -> bool {
        ["METADATA", "ETCD_KEY"].contains(&self.name)
            || self.name.ends_with("_TOKEN")
            || self.name.ends_with("_PASSWORD")
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

    /// The name without our prefix; `None` where it does not wear it.
    pub(super) fn without_prefix<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.prefix).filter(|_| !self.prefix.is_empty())
    }
}

/// Of `names` the one nearest to `given`, if it is near enough to be a slip of the finger.
pub fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Names longer than any of ours cannot be near; the table is quadratic in their length.
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

/// How many single-character edits (insertion, deletion, replacement, swap of neighbours) lie between two
/// names, whatever their case.
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
