//! No file of a crate uses another file that uses it, directly or through other files.
//!
//! A file uses the files whose items it names by a path, in an import or elsewhere. An item that a module root only
//! passes on (`pub use child::Item`) counts for the file that has the item. So a root may name its children, and the
//! children may name what the root passes on, but nothing that the root has itself.

#[path = "../support/repository.rs"]
mod repository;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use repository::repository;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

/// The segments of a path, from the root of the crate.
type Segments = Vec<String>;

/// A file, and so a module.
#[derive(Default)]
struct Module {
    children: BTreeSet<String>,
    /// The names that imports bind, with the paths that they stand for.
    imports: BTreeMap<String, Segments>,
    /// All paths, the paths of imports included.
    paths: Vec<Segments>,
}

type Modules = BTreeMap<Segments, Module>;

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|a| a.path().is_ident("cfg") && a.parse_args::<syn::Path>().is_ok_and(|p| p.is_ident("test")))
}

/// Reads the module in `file`, whose children are in `folder`, and all below it.
fn read(file: &Path, folder: &Path, name: Segments, modules: &mut Modules) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut children = Vec::new();
    for item in &parsed.items {
        match item {
            Item::Mod(module) if module.content.is_none() && !is_for_tests(&module.attrs) => {
                children.push(module.ident.to_string());
            }
            _ => {}
        }
    }
    let mut reader =
        Reader { name: &name, module: Module { children: children.iter().cloned().collect(), ..Module::default() } };
    reader.visit_file(&parsed);
    let module = reader.module;
    modules.insert(name.clone(), module);
    for child in children {
        let file = folder.join(format!("{child}.rs"));
        let file = if file.exists() { file } else { folder.join(&child).join("mod.rs") };
        read(&file, &folder.join(&child), [&name[..], &[child]].concat(), modules);
    }
}

struct Reader<'a> {
    name: &'a Segments,
    module: Module,
}

impl Reader<'_> {
    /// The path from the root, if it is a path within the crate.
    fn absolute(&self, segments: &[String]) -> Option<Segments> {
        let (first, rest) = segments.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([self.name, rest].concat()),
            "super" => {
                let mut module = self.name.clone();
                module.pop();
                let mut rest = rest;
                while rest.first().is_some_and(|s| s == "super") {
                    module.pop();
                    rest = &rest[1..];
                }
                Some([&module[..], rest].concat())
            }
            child if self.module.children.contains(child) => Some([self.name, segments].concat()),
            _ => None,
        }
    }

    fn import(&mut self, tree: &UseTree, before: &mut Segments) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(&path.tree, before);
                before.pop();
            }
            UseTree::Name(name) if name.ident == "self" => {
                let bound = before.last().cloned().unwrap_or_default();
                self.bind(bound, before.clone());
            }
            UseTree::Name(name) => self.bind(name.ident.to_string(), [&before[..], &[name.ident.to_string()]].concat()),
            UseTree::Rename(name) => {
                self.bind(name.rename.to_string(), [&before[..], &[name.ident.to_string()]].concat());
            }
            UseTree::Glob(_) => self.bind("*".into(), before.clone()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, before)),
        }
    }

    fn bind(&mut self, name: String, path: Segments) {
        if let Some(path) = self.absolute(&path) {
            self.module.imports.insert(name, path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(&item.tree, &mut Vec::new());
        // An item that is passed on is not used here.
        if matches!(item.vis, Visibility::Inherited) {
            let mut own = Reader {
                name: self.name,
                module: Module { children: self.module.children.clone(), ..Module::default() },
            };
            own.import(&item.tree, &mut Vec::new());
            self.module.paths.extend(own.module.imports.into_values());
        }
    }

    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Segments = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if segments.len() > 1 {
            self.module.paths.extend(self.absolute(&segments));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, of: &'ast syn::Macro) {
        // The arguments of most macros are expressions, and only their paths matter here.
        let arguments = syn::punctuated::Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated;
        if let Ok(arguments) = of.parse_body_with(arguments) {
            for argument in &arguments {
                // Only the paths of the arguments are kept.
                let mut own = Reader {
                    name: self.name,
                    module: Module { children: self.module.children.clone(), ..Module::default() },
                };
                own.visit_expr(argument);
                self.module.paths.extend(own.module.paths);
            }
        }
    }
}

/// The file that has the item that a path names: imports are followed to where the item stands.
fn home(modules: &Modules, path: &[String], depth: usize) -> Option<Segments> {
    assert!(depth < 32, "an import of itself: {path:?}");
    let within = (0..=path.len()).rev().find(|&n| modules.contains_key(&path[..n]))?;
    let module = &modules[&path[..within]];
    match path.get(within).and_then(|name| module.imports.get(name)) {
        Some(target) => home(modules, &[&target[..], &path[within + 1..]].concat(), depth + 1),
        None => Some(path[..within].to_vec()),
    }
}

/// Files that use one another in a circle, if there are any.
fn circle(uses: &BTreeMap<Segments, BTreeSet<Segments>>) -> Option<Vec<Segments>> {
    fn search(
        at: &Segments,
        uses: &BTreeMap<Segments, BTreeSet<Segments>>,
        done: &mut BTreeSet<Segments>,
        way: &mut Vec<Segments>,
    ) -> bool {
        if let Some(start) = way.iter().position(|m| m == at) {
            way.drain(..start);
            return true;
        }
        if !done.insert(at.clone()) {
            return false;
        }
        way.push(at.clone());
        if uses[at].iter().any(|next| search(next, uses, done, way)) {
            return true;
        }
        way.pop();
        false
    }
    let (mut done, mut way) = (BTreeSet::new(), Vec::new());
    uses.keys().any(|module| search(module, uses, &mut done, &mut way)).then_some(way)
}

fn uses(root: &Path) -> BTreeMap<Segments, BTreeSet<Segments>> {
    let mut modules = Modules::new();
    read(&root.join("lib.rs"), root, Vec::new(), &mut modules);
    let of = |name: &Segments| {
        let homes = modules[name].paths.iter().filter_map(|path| home(&modules, path, 0));
        homes.filter(|home| home != name).collect()
    };
    modules.keys().map(|name| (name.clone(), of(name))).collect()
}

fn assert_no_circle(root: &Path) {
    let uses = uses(root);
    assert!(uses.len() > 10 && uses.values().map(BTreeSet::len).sum::<usize>() > uses.len(), "{}", root.display());
    if let Some(circle) = circle(&uses) {
        let names: Vec<String> = circle.iter().map(|m| m.join("::")).collect();
        panic!("{}: {} -> {}", root.display(), names.join(" -> "), names[0]);
    }
}

fn sources(of: &str) -> PathBuf {
    repository().join(of)
}

#[test]
fn files_of_the_kernels_do_not_use_one_another_in_a_circle() {
    assert_no_circle(&sources("kernels/src"));
}

#[test]
fn files_of_the_plans_do_not_use_one_another_in_a_circle() {
    assert_no_circle(&sources("src"));
}

#[test]
fn circles_are_found() {
    let of = |all: &[(&str, &[&str])]| {
        let segments = |name: &&str| vec![(*name).to_string()];
        all.iter().map(|(name, uses)| (segments(name), uses.iter().map(segments).collect())).collect()
    };
    assert_eq!(circle(&of(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])), None);
    let found = circle(&of(&[("a", &["b"]), ("b", &["c"]), ("c", &["d", "b"]), ("d", &[])])).expect("a circle");
    assert_eq!(found, [["b"], ["c"]]);
}
