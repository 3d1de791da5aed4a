//! The Markdown of the repository, as far as these tests have to understand it.

use std::fs;
use std::path::{Path, PathBuf};

/// The repository.
pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// One page.
pub(crate) struct Page {
    /// Relative to the repository.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A block of code between fences.
#[derive(Debug)]
pub(crate) struct Block {
    /// The words behind the opening fence: the language, then what else is known of the block.
    pub(crate) info: Vec<String>,
    pub(crate) text: String,
    /// Where its first line stands, from 1.
    pub(crate) line: usize,
}

/// All pages: those of the root, of `docs` and of `deploy`.
pub(crate) fn pages() -> Vec<Page> {
    let mut paths: Vec<PathBuf> = listed(Path::new(ROOT)).into_iter().filter(|path| path.is_file()).collect();
    paths.extend(["docs", "deploy"].iter().flat_map(|folder| files_below(&Path::new(ROOT).join(folder))));
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    paths.iter().map(|path| Page::read(path.strip_prefix(ROOT).unwrap())).collect()
}

/// Every file in a folder and in those below it.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let into = |path: PathBuf| if path.is_dir() { files_below(&path) } else { vec![path] };
    listed(folder).into_iter().flat_map(into).collect()
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

impl Page {
    pub(crate) fn read(path: &Path) -> Page {
        let text = fs::read_to_string(Path::new(ROOT).join(path))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Page { path: path.to_owned(), text }
    }

    /// Each line with its number, from 1, and whether it is text: neither code nor a fence.
    fn lines(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        let mut in_fence = false;
        self.text.lines().enumerate().map(move |(index, line)| {
            let is_fence = line.trim_start().starts_with("```");
            in_fence ^= is_fence;
            (index + 1, line, !in_fence && !is_fence && !line.starts_with("    "))
        })
    }

    /// The lines of text with their numbers.
    pub(crate) fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().filter(|(_, _, is_text)| *is_text).map(|(number, line, _)| (number, line))
    }

    /// The fenced blocks, in their order.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open: Option<Block> = None;
        for (number, line, _) in self.lines() {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(info), None) => {
                    let info = info.split_whitespace().map(str::to_owned).collect();
                    open = Some(Block { info, text: String::new(), line: number + 1 });
                }
                (None, Some(block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a fence is not closed", self.path.display());
        blocks
    }

    /// What stands between backticks in the text, with the number of its line.
    pub(crate) fn code_spans(&self) -> Vec<(usize, &str)> {
        let spans =
            self.prose().map(|(number, line)| line.split('`').skip(1).step_by(2).map(move |s| (number, s)));
        spans.flatten().collect()
    }

    /// The targets of its links, with the number of the line. A code span that looks like one is none.
    pub(crate) fn links(&self) -> Vec<(usize, &str)> {
        let mut links = Vec::new();
        for (number, line) in self.prose() {
            let text = line.split('`').step_by(2);
            // A link's text may be a code span, so that its two halves are in different pieces.
            for piece in text {
                let targets = piece.split("](").skip(1).filter_map(|rest| rest.split(')').next());
                links.extend(targets.map(|target| (number, target)));
            }
        }
        links
    }

    /// The anchors that a link may name, as GitHub makes them of headings.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let headings = self.prose().filter(|(_, line)| line.starts_with('#'));
        let mut anchors: Vec<String> = Vec::new();
        for (_, heading) in headings {
            let anchor = anchor(heading.trim_start_matches('#').trim());
            let same = anchors.iter().filter(|known| **known == anchor).count();
            anchors.push(if same == 0 { anchor } else { format!("{anchor}-{same}") });
        }
        anchors
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn a_page_is_understood() {
    let text = "# A page, of two\n\nSee [`X`](a.md#b) and `[no](link)`.\n\n```sh docker\nls\n```\n\n## A page, of two\n";
    let page = Page { path: "x.md".into(), text: text.to_owned() };
    assert_eq!(page.anchors(), ["a-page-of-two", "a-page-of-two-1"]);
    assert_eq!(page.links(), [(3, "a.md#b")]);
    assert_eq!(page.code_spans(), [(3, "X"), (3, "[no](link)")]);
    let [block] = &page.blocks()[..] else { panic!("one block") };
    assert_eq!((block.info.join(" ").as_str(), block.text.as_str(), block.line), ("sh docker", "ls\n", 6));
}
