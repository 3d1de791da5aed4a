//! A line of the log that a page quotes is one that the code writes.
//!
//! A page writes `…` for what differs from run to run. What remains must be made of whole pieces of the source's texts:
//! what stands between the placeholders of a format string, from one placeholder to the next. A text that was changed in
//! the code so makes the page fail that still has the old one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::page::{Page, ROOT, files_below, pages};

const LEVELS: [&str; 3] = ["ERROR ", "WARN ", "INFO "];
/// A piece with fewer signs, of which one is a letter, could stand anywhere.
const SHORTEST: usize = 3;

#[test]
fn every_line_of_the_log_that_a_page_quotes_is_one_that_the_code_writes() {
    let pieces = pieces_of_the_code();
    let mut unknown = Vec::new();
    let mut checked = 0;
    for page in pages() {
        for (number, line) in quoted(&page) {
            checked += 1;
            if let Err(from) = made_of(&line, &pieces) {
                unknown.push(format!(
                    "{}:{number}: no text of the code goes on with: {from}",
                    page.path.display()
                ));
            }
        }
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
    assert!(checked > 30, "only {checked} lines were checked");
}

/// Code spans that begin with a level, and the lines of blocks of the language `log`; without their level. Blocks of the
/// language `page` have what the proxy's own pages say.
fn quoted(page: &Page) -> Vec<(usize, String)> {
    let spans = page.code_spans().into_iter().filter_map(|(number, span)| {
        let text = LEVELS.iter().find_map(|level| span.strip_prefix(level))?;
        Some((number, text.replace("\\|", "|")))
    });
    let blocks = page.blocks();
    let of_log =
        blocks.iter().filter(|block| matches!(block.info.first().map(String::as_str), Some("log" | "page")));
    let lines = of_log.flat_map(|block| {
        block.text.lines().enumerate().map(|(index, line)| {
            let text = LEVELS.iter().find_map(|level| line.strip_prefix(level)).unwrap_or(line);
            (block.line + index, text.to_owned())
        })
    });
    spans.chain(lines).collect()
}

/// Whether a line is whole pieces and `…`, one after the other; otherwise what remains of it at the furthest place that
/// can be reached.
fn made_of(line: &str, pieces: &BTreeSet<String>) -> Result<(), String> {
    let line = without_fields(line);
    let mut reached = BTreeSet::from([0]);
    for at in 0..line.len() {
        if !reached.contains(&at) {
            continue;
        }
        let rest = &line[at..];
        reached.extend(rest.starts_with('…').then(|| at + '…'.len_utf8()));
        let fitting = pieces.iter().filter(|piece| rest.starts_with(piece.as_str()));
        reached.extend(fitting.map(|piece| at + piece.len()));
    }
    match reached.last() {
        Some(end) if *end == line.len() => Ok(()),
        end => Err(line[end.copied().unwrap_or(0)..].to_owned()),
    }
}

/// The message without the fields behind it, `name=…`.
fn without_fields(line: &str) -> &str {
    let is_field = |word: &str| {
        let name = word.strip_suffix("=…").unwrap_or_default();
        !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase())
    };
    let fields: usize = line.rsplit(' ').take_while(|word| is_field(word)).map(|word| word.len() + 1).sum();
    &line[..line.len() - fields]
}

/// The pieces between placeholders of all string literals of the programs.
fn pieces_of_the_code() -> BTreeSet<String> {
    let pieces = literals_of_the_code();
    let pieces = pieces.iter().flat_map(|literal| pieces_of(literal));
    pieces.filter(|piece| piece.len() >= SHORTEST || !piece.contains(char::is_alphanumeric)).collect()
}

/// All string literals of the programs.
pub(crate) fn literals_of_the_code() -> Vec<String> {
    let folders = ["src", "client/src", "nodes/src"].map(|folder| Path::new(ROOT).join(folder));
    let files = folders.iter().filter(|folder| folder.exists()).flat_map(|folder| files_below(folder));
    let sources = files.filter(|file| file.extension().is_some_and(|ending| ending == "rs"));
    let texts = sources.map(|file| fs::read_to_string(file).unwrap());
    // What tests expect of a text proves nothing about it.
    let programs = texts.map(|text| text.split("#[cfg(test)]\nmod ").next().unwrap().to_owned());
    programs.flat_map(|text| literals(&text)).collect()
}

/// The string literals of a source, read.
fn literals(source: &str) -> Vec<String> {
    let mut literals = Vec::new();
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n").replace("'\"'", "");
    let mut rest = code.as_str();
    while let Some((_, from)) = rest.split_once('"') {
        let mut literal = String::new();
        let mut signs = from.char_indices();
        let mut end = from.len();
        while let Some((at, sign)) = signs.next() {
            match sign {
                '"' => {
                    end = at;
                    break;
                }
                '\\' => match signs.next() {
                    Some((_, '\n')) => {
                        let spaces = signs.as_str().len() - signs.as_str().trim_start().len();
                        signs.by_ref().take(spaces).for_each(|_| {});
                    }
                    Some((_, 'n')) => literal.push('\n'),
                    Some((_, escaped)) => literal.push(escaped),
                    None => {}
                },
                sign => literal.push(sign),
            }
        }
        literals.push(literal);
        rest = from.get(end + 1..).unwrap_or_default();
    }
    literals
}

/// What stands between the placeholders of a format string; `{{` is a brace.
fn pieces_of(literal: &str) -> Vec<String> {
    let literal = literal.replace("{{", "\u{1}").replace("}}", "\u{2}");
    let mut pieces = Vec::new();
    for (index, part) in literal.split('{').enumerate() {
        let text = if index == 0 { part } else { part.split_once('}').map_or("", |(_, text)| text) };
        pieces.extend(text.split('\n').map(|line| line.replace('\u{1}', "{").replace('\u{2}', "}")));
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

#[test]
fn a_text_of_the_code_is_found_whole_and_only_whole() {
    let source = "warn!(\n    \"the name {name:?} is \\\n     late: {why}; at most {}\", 1);\n";
    let pieces = literals(source).iter().flat_map(|literal| pieces_of(literal)).collect();
    assert_eq!(made_of("the name … is late: …; at most …", &pieces), Ok(()));
    assert_eq!(made_of("the name … is late", &pieces), Err(" is late".to_owned()));
    assert_eq!(made_of("the names …", &pieces), Err("the names …".to_owned()));
}
