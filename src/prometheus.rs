//! The text format of Prometheus. Used by both programs, uses nothing.

use std::fmt::{Display, Write};

/// The content type of the format.
pub const CONTENT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of metrics, family by family.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// Begins a family: its name, whether it is a `gauge`, a `counter` or a `histogram`, and what it means.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A family of one value without labels.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.line(name, &[], value);
    }

    /// A value of the present family.
    pub fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (number, (key, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{key}=\"{text}\"", if number == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// The whole page.
    pub fn text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_end_its_own_quotes_or_line() {
        let mut page = Page::default();
        page.line("x", &[("a", "q\"\\\nz"), ("b", "")], 1.5);
        assert_eq!(page.text(), "x{a=\"q\\\"\\\\\\nz\",b=\"\"} 1.5\n");
    }
}
