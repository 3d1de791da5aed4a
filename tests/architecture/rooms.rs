//! Circles: between files, and between the rooms (folders) of a folder.
//!
//! Two things of one folder, be they files or folders with all that is in them, must not need each other, straight or
//! by way of a third. A module's own file (`x.rs` or `x/mod.rs`) is aside: it puts its children together, and they may
//! use what it defines. Every circle of files has a smallest folder that holds it, and is a circle of that folder's
//! children, so this one rule covers both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::imports::Arrow;

type Names = BTreeSet<String>;

/// A folder and, for each of its rooms, which of the others it may name.
pub(super) struct House {
    pub(super) folder: &'static str,
    pub(super) may_name: &'static [(&'static str, &'static [&'static str])],
}

/// A file or a folder: the path of its module, without `.rs` and `mod.rs`.
type Room = PathBuf;

/// Describes each circle among the children of any folder, with the imports that tie it; empty where there is none.
pub(super) fn circles(arrows: &BTreeMap<Arrow, Names>) -> Vec<String> {
    let mut folders: BTreeMap<PathBuf, BTreeMap<(Room, Room), Vec<String>>> = BTreeMap::new();
    for ((from, to), names) in arrows {
        let Some((folder, from_room, to_room)) = part(&module_of(from), &module_of(to)) else { continue };
        let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let tie = format!("  {} -> {}: {names}", from.display(), to.display());
        folders.entry(folder).or_default().entry((from_room, to_room)).or_default().push(tie);
    }
    folders.iter().filter_map(|(folder, ties)| circle(folder, ties)).collect()
}

/// What in a house runs against its drawing: arrows that are not drawn, and rooms that the drawing lacks.
pub(super) fn against(arrows: &BTreeMap<Arrow, Names>, house: &House) -> Vec<String> {
    let room_of = |module: &Path| {
        let below = module.strip_prefix(house.folder).ok()?;
        below.iter().next().map(|name| name.to_string_lossy().into_owned())
    };
    let mut wrong = Vec::new();
    for ((from, to), names) in arrows {
        let (one, other) = (module_of(from), module_of(to));
        let (Some(one), Some(other)) = (room_of(&one), room_of(&other)) else { continue };
        let drawn = house.may_name.iter().find(|(room, _)| *room == one);
        if one != other && !drawn.is_some_and(|(_, below)| below.contains(&other.as_str())) {
            let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            wrong.push(format!("  {} -> {}: {names}", from.display(), to.display()));
        }
    }
    wrong
}

/// The module that a file is: `a/b.rs` and `a/b/mod.rs` are both `a/b`.
fn module_of(file: &Path) -> PathBuf {
    let module = file.with_extension("");
    if module.ends_with("mod") || module.ends_with("lib") {
        return module.parent().unwrap_or(&module).to_owned();
    }
    module
}

/// The folder in which the ways to `from` and `to` part, and the children of it that hold them. `None` where one holds
/// the other.
fn part(from: &Path, to: &Path) -> Option<(PathBuf, Room, Room)> {
    let common: PathBuf =
        from.iter().zip(to.iter()).take_while(|(one, other)| one == other).map(|(one, _)| one).collect();
    let child = |of: &Path| of.strip_prefix(&common).ok()?.iter().next().map(|name| common.join(name));
    Some((common.clone(), child(from)?, child(to)?))
}

/// Takes away what names nothing that is left; what remains is in a circle, or names something that is.
fn circle(folder: &Path, ties: &BTreeMap<(Room, Room), Vec<String>>) -> Option<String> {
    let mut left: BTreeSet<&(Room, Room)> = ties.keys().collect();
    loop {
        let before = left.len();
        let (from, to): (BTreeSet<_>, BTreeSet<_>) = left.iter().map(|(from, to)| (from, to)).unzip();
        left.retain(|(one, other)| to.contains(one) && from.contains(other));
        if left.len() == before {
            break;
        }
    }
    if left.is_empty() {
        return None;
    }
    let lines: Vec<_> = left.iter().flat_map(|pair| &ties[*pair]).map(String::as_str).collect();
    Some(format!("a circle in {}:\n{}", folder.display(), lines.join("\n")))
}
