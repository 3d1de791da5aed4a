//! PRE_START and UPDATE_COMMAND: one shell line on each line, each with a name that anybody may see.

use registry_client::protocol::Invalid;

/// The most shell lines in one variable.
const MAX_STEPS: usize = 64;
/// The longest name, in characters.
const MAX_NAME: usize = 60;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its name for the status and the maintenance page: the comment above the line, or the program with which it
    /// begins. The rest of the line may hold secrets.
    pub name: Option<String>,
    /// The shell line.
    pub line: String,
}

/// Parses shell lines. Empty lines are skipped; a comment names the line below it.
pub(super) fn parse(text: &str) -> Result<Vec<Step>, Invalid> {
    let (mut steps, mut comment) = (Vec::new(), None);
    for line in text.lines().map(str::trim) {
        match line.strip_prefix('#') {
            _ if line.is_empty() => comment = None,
            Some(words) => comment = name(words.trim_start_matches('#')),
            None => {
                let name = comment.take().or_else(|| program(line));
                steps.push(Step { name, line: line.to_owned() });
            }
        }
    }
    match steps.len() {
        0..=MAX_STEPS => Ok(steps),
        _ => {
            Err(Invalid::new("steps", text, "more than 64 steps: put them into a script", "npm run migrate"))
        }
    }
}

fn name(words: &str) -> Option<String> {
    let name: String = words.trim().chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    Some(name).filter(|name| !name.is_empty())
}

/// The first word, if it is certainly the name of a program.
fn program(line: &str) -> Option<String> {
    let word = line.split_whitespace().next()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '+');
    let base = word.rsplit('/').next().filter(|_| word.chars().all(plain))?;
    name(base).filter(|name| name.starts_with(|c: char| c.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(Option<String>, String)> {
        parse(text).unwrap().into_iter().map(|step| (step.name, step.line)).collect()
    }

    #[test]
    fn a_comment_names_the_line_below_it_and_without_one_the_program_does() {
        let text =
            "# Migrating the database\n  php artisan migrate --force\n\n/usr/bin/npm ci\n# lost\n\nchown x y";
        let named = |name: &str, line: &str| (Some(name.to_owned()), line.to_owned());
        assert_eq!(
            parsed(text),
            [
                named("Migrating the database", "php artisan migrate --force"),
                named("npm", "/usr/bin/npm ci"),
                named("chown", "chown x y"),
            ]
        );
        assert_eq!(parsed("#\nunzip -o x.zip")[0].0.as_deref(), Some("unzip"));
    }

    #[test]
    fn nothing_but_a_program_becomes_a_name() {
        for line in
            ["PASSWORD=horse mysql", "[ -d x ] || npm ci", "$(cat horse)", "{ horse; }", "\"horse\" x", "./"]
        {
            assert_eq!(parsed(line)[0].0, None, "{line}");
        }
        assert_eq!(
            parsed(&format!("# {}\nx", "long ".repeat(50)))[0].0.as_ref().map(String::len),
            Some(MAX_NAME)
        );
    }
}
