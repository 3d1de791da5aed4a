//! Every link inside the repository leads somewhere, and the index has every page.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::page::{Page, ROOT, pages};

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_in_it() {
    let mut broken = Vec::new();
    let mut followed = 0;
    for page in pages() {
        for (line, link) in page.links() {
            if link.contains("://") {
                continue;
            }
            followed += 1;
            if let Err(why) = follow(&page, link) {
                broken.push(format!("{}:{line}: {link}: {why}", page.path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(followed > 100, "only {followed} links were followed");
}

#[test]
fn the_index_has_every_page() {
    let index = Page::read(Path::new("docs/README.md"));
    let linked: BTreeSet<PathBuf> = index.links().into_iter().map(|(_, link)| target(&index, link)).collect();
    let missing: Vec<_> = pages()
        .into_iter()
        .map(|page| page.path)
        .filter(|path| path.starts_with("docs") && *path != index.path && !linked.contains(path))
        .collect();
    assert!(missing.is_empty(), "docs/README.md does not link {missing:?}");
}

fn follow(page: &Page, link: &str) -> Result<(), String> {
    let target = target(page, link);
    if !Path::new(ROOT).join(&target).exists() {
        return Err(format!("there is no {}", target.display()));
    }
    match link.split_once('#') {
        None => Ok(()),
        Some((_, anchor)) if Page::read(&target).anchors().iter().any(|known| known == anchor) => Ok(()),
        Some((_, anchor)) => Err(format!("{} has no heading #{anchor}", target.display())),
    }
}

/// The file that a link of the page names, relative to the repository.
fn target(page: &Page, link: &str) -> PathBuf {
    let file = link.split('#').next().unwrap();
    if file.is_empty() {
        return page.path.clone();
    }
    let mut target = PathBuf::new();
    for part in page.path.parent().unwrap().join(file).components() {
        match part {
            Component::ParentDir => {
                assert!(target.pop(), "{}: {link} leaves the repository", page.path.display())
            }
            part => target.push(part),
        }
    }
    target
}
