//! Which file imports which: the source parsed, each path followed through re-exports to the file that defines
//! what it names.
//!
//! It sees paths, not method calls: a file that only calls a method of another file's type has no arrow to it. Code
//! under `#[cfg(test)]` is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{Attribute, File, Item, ItemMod, ItemUse, UseTree};

/// A library of this workspace: the name by which others import it, and the folder of its `lib.rs`.
pub(super) struct Library {
    pub(super) name: &'static str,
    pub(super) root: &'static str,
}

/// A module by its path from the libraries: `registry_sidecar::server::proxy`.
type ModulePath = Vec<String>;

/// One import: the file that names something, the file that defines it.
pub(super) type Arrow = (PathBuf, PathBuf);

/// What a module defines and imports. An inline module has its parent's file.
struct Module {
    file: PathBuf,
    /// The names that `use` brings into it, each with the path that it stands for.
    imported: BTreeMap<String, ModulePath>,
    /// The modules whose public names `use path::*` brings into it.
    globs: Vec<ModulePath>,
    defined: BTreeSet<String>,
    /// Every path that it names, as written.
    named: BTreeSet<ModulePath>,
}

/// All arrows between different files of `libraries`, each with the names that cause it.
pub(super) fn arrows(repository: &Path, libraries: &[Library]) -> BTreeMap<Arrow, BTreeSet<String>> {
    let mut modules = BTreeMap::new();
    for library in libraries {
        let root = repository.join(library.root);
        read_file(&root.join("lib.rs"), &root, &[library.name.to_owned()], &mut modules);
    }
    let mut arrows: BTreeMap<Arrow, BTreeSet<String>> = BTreeMap::new();
    for (path, module) in &modules {
        for named in module.named.iter().chain(module.imported.values()) {
            let Some((target, name)) = resolve(&modules, path, named, 0) else { continue };
            if target != module.file {
                let relative = |file: &Path| file.strip_prefix(repository).unwrap_or(file).to_owned();
                arrows.entry((relative(&module.file), relative(&target))).or_default().insert(name);
            }
        }
    }
    arrows
}

/// Reads the module `path` from `file`; its children are below `folder`.
fn read_file(file: &Path, folder: &Path, path: &[String], modules: &mut BTreeMap<ModulePath, Module>) {
    let source = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let parsed: File = syn::parse_file(&source).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    read_items(&parsed.items, file, folder, path, modules);
}

fn read_items(
    items: &[Item],
    file: &Path,
    folder: &Path,
    path: &[String],
    modules: &mut BTreeMap<ModulePath, Module>,
) {
    let mut reader = Reader::default();
    for item in items.iter().filter(|item| !is_test(attributes(item))) {
        match item {
            Item::Mod(module) => read_child(module, file, folder, path, modules),
            item => reader.visit_item(item),
        }
        reader.defined.extend(defines(item));
    }
    let Reader { imported, globs, defined, named } = reader;
    modules.insert(path.to_vec(), Module { file: file.to_owned(), imported, globs, defined, named });
}

fn read_child(
    module: &ItemMod,
    file: &Path,
    folder: &Path,
    path: &[String],
    modules: &mut BTreeMap<ModulePath, Module>,
) {
    let name = module.ident.to_string();
    let mut child = path.to_vec();
    child.push(name.clone());
    let below = folder.join(&name);
    if let Some((_, items)) = &module.content {
        return read_items(items, file, &below, &child, modules);
    }
    let candidates = [folder.join(format!("{name}.rs")), below.join("mod.rs")];
    let source = candidates.iter().find(|file| file.exists());
    let source = source.unwrap_or_else(|| panic!("no file for the module {}", child.join("::")));
    read_file(source, &below, &child, modules);
}

/// Collects what the items of one module define, import and name.
#[derive(Default)]
struct Reader {
    imported: BTreeMap<String, ModulePath>,
    globs: Vec<ModulePath>,
    defined: BTreeSet<String>,
    named: BTreeSet<ModulePath>,
}

impl Reader {
    fn import(&mut self, tree: &UseTree, prefix: &mut ModulePath) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.import(&path.tree, prefix);
                prefix.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, prefix)),
            UseTree::Glob(_) => self.globs.push(prefix.clone()),
            UseTree::Name(name) if name.ident == "self" => {
                let last = prefix.last().cloned().unwrap_or_default();
                self.imported.insert(last, prefix.clone());
            }
            UseTree::Name(name) => self.import_as(&name.ident, name.ident.to_string(), prefix),
            UseTree::Rename(rename) => self.import_as(&rename.ident, rename.rename.to_string(), prefix),
        }
    }

    fn import_as(&mut self, ident: &syn::Ident, name: String, prefix: &ModulePath) {
        let mut path = prefix.clone();
        path.push(ident.to_string());
        self.imported.insert(name, path);
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.named.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        // The arguments of most macros are expressions; those of others have no paths of ours.
        let parser = syn::punctuated::Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated;
        if let Ok(arguments) = call.parse_body_with(parser) {
            arguments.iter().for_each(|argument| self.visit_expr_owned(argument));
        }
        syn::visit::visit_macro(self, call);
    }
}

impl Reader {
    fn visit_expr_owned(&mut self, expression: &syn::Expr) {
        let mut inner = Reader::default();
        inner.visit_expr(expression);
        self.named.extend(inner.named);
    }
}

/// The file that defines what `named` names as seen from the module `from`, and the name.
fn resolve(
    modules: &BTreeMap<ModulePath, Module>,
    from: &[String],
    named: &[String],
    depth: usize,
) -> Option<(PathBuf, String)> {
    if depth > 16 {
        return None;
    }
    let (mut at, rest) = start(modules, from, named)?;
    for (index, segment) in rest.iter().enumerate() {
        let module = &modules[&at];
        let mut child = at.clone();
        child.push(segment.clone());
        if modules.contains_key(&child) {
            at = child;
        } else if module.defined.contains(segment) {
            return Some((module.file.clone(), segment.clone()));
        } else if let Some(meant) = module.imported.get(segment) {
            let meant: Vec<_> = meant.iter().chain(&rest[index + 1..]).cloned().collect();
            return resolve(modules, &at, &meant, depth + 1);
        } else {
            let through = |glob: &ModulePath| {
                let meant: Vec<_> = glob.iter().chain(&rest[index..]).cloned().collect();
                resolve(modules, &at, &meant, depth + 1)
            };
            return module.globs.iter().find_map(through);
        }
    }
    // The module itself is named: whoever names only a module depends on the file that is one.
    let name = at.last().cloned().unwrap_or_default();
    modules.get(&at).map(|module| (module.file.clone(), name))
}

/// The module at which a path begins, and what of it is left.
fn start<'a>(
    modules: &BTreeMap<ModulePath, Module>,
    from: &[String],
    named: &'a [String],
) -> Option<(ModulePath, &'a [String])> {
    let (first, rest) = named.split_first()?;
    match first.as_str() {
        "crate" => Some((from[..1].to_vec(), rest)),
        "self" => Some((from.to_vec(), rest)),
        "super" => {
            let supers = named.iter().take_while(|segment| *segment == "super").count();
            Some((from.get(..from.len().checked_sub(supers)?)?.to_vec(), &named[supers..]))
        }
        name if modules.contains_key(&vec![name.to_owned()]) => Some((vec![name.to_owned()], rest)),
        name => {
            let module = modules.get(from)?;
            let mut child = from.to_vec();
            child.push(name.to_owned());
            let known = modules.contains_key(&child)
                || module.defined.contains(name)
                // An import of an outside crate's item has no module of ours at its beginning.
                || module.imported.get(name).is_some_and(|path| path.first().is_some_and(|first| first != name))
                || !module.globs.is_empty();
            known.then(|| (from.to_vec(), named))
        }
    }
}

fn defines(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    let names_test = |attribute: &Attribute| {
        attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    };
    attributes.iter().any(|attribute| attribute.path().is_ident("cfg") && names_test(attribute))
}
