//! The crates, and the folders in them, against `docs/architecture.md`: who may use whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use syn::visit::{self, Visit};

/// A module by its path in the crate; the root is empty.
type Module = Vec<String>;

/// Crates with folders of which one stands on another, the lowest first. Files beside the folders are below them all.
const FOLDERS: [(&str, &[&str]); 2] = [("rooms", &["engine", "remote"]), ("store", &["engine", "store", "local"])];

/// The crates that each crate of the workspace depends on, by its manifest; the root package is `haima`.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let mut manifests = vec![("haima".to_owned(), std::path::PathBuf::from("Cargo.toml"))];
    for entry in std::fs::read_dir("src").expect("src") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            let name = path.file_name().expect("name").to_string_lossy().into_owned();
            manifests.push((name, path.join("Cargo.toml")));
        }
    }
    let names: BTreeSet<String> = manifests.iter().map(|(name, _)| name.clone()).collect();
    let mut found = BTreeMap::new();
    for (name, path) in manifests {
        let manifest = std::fs::read_to_string(path).expect("manifest");
        let section = manifest.split("\n[dependencies]\n").nth(1).expect("dependencies");
        let lines = section.split("\n[").next().expect("a section").lines();
        let dependencies = lines.filter_map(|line| line.split(['.', ' ', '=']).next());
        // `http` is another's crate; ours has a longer name.
        let ours = dependencies.filter(|dependency| *dependency != "http").map(|name| name.replace("haima-", ""));
        found.insert(name, ours.filter(|dependency| names.contains(dependency)).collect());
    }
    found
}

/// The cells of the table of crates in `docs/architecture.md`.
fn levels() -> BTreeMap<String, u8> {
    let rows = include_str!("../docs/architecture.md").lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split_once("` | "));
    cells.filter_map(|(name, rest)| Some((name.to_owned(), rest.split(' ').next()?.parse().ok()?))).collect()
}

#[test]
fn crates_depend_only_on_lower_ones() {
    let levels = levels();
    for (name, dependencies) in dependencies() {
        if name == "haima" || name == "testkit" {
            continue;
        }
        let own = levels.get(&name).unwrap_or_else(|| panic!("docs/architecture.md gives {name} no level"));
        for dependency in dependencies {
            assert!(levels[&dependency] < *own, "{name} depends on {dependency}, which isn't lower");
        }
    }
}

#[test]
fn the_picture_of_the_crates_is_that_of_the_manifests() {
    let page = include_str!("../docs/architecture.md");
    let picture = page.split("```mermaid\n").nth(1).expect("a picture").split("```").next().expect("its end");
    let mut drawn: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in picture.lines().skip(1) {
        let (name, dependencies) = line.trim().split_once(" --> ").expect("an arrow");
        drawn.insert(name.to_owned(), dependencies.split(" & ").map(str::to_owned).collect());
    }
    let mut real = dependencies();
    real.retain(|name, dependencies| name != "testkit" && !dependencies.is_empty());
    assert_eq!(drawn, real);
}

#[test]
fn no_folder_uses_one_above_it() {
    for (name, folders) in FOLDERS {
        let modules = Modules::of(name);
        let height =
            |module: &Module| folders.iter().position(|folder| module.first().is_some_and(|own| own == folder));
        for (module, uses) in &modules.uses {
            for used in uses {
                assert!(height(used) <= height(module), "{name}: {} uses {}", module.join("::"), used.join("::"));
            }
        }
    }
}

#[test]
fn no_circle_of_modules_spans_folders() {
    for (name, _) in dependencies().into_iter().filter(|(name, _)| name != "haima") {
        let modules = Modules::of(&name);
        for module in modules.uses.keys() {
            let reached = modules.reached_from(module);
            for other in &reached {
                let circle = modules.reached_from(other).contains(module);
                let (own, theirs) = (modules.folder(module), modules.folder(other));
                let (one, two) = (module.join("::"), other.join("::"));
                assert!(!circle || own == theirs, "{name}: {one} and {two} are in a circle, and in different folders");
            }
        }
    }
}

/// The modules of a crate, one for each file, with those that each uses. The root, which names all, is left out, and so are tests.
struct Modules {
    uses: BTreeMap<Module, BTreeSet<Module>>,
}

impl Modules {
    fn of(name: &str) -> Self {
        let root = Path::new("src").join(name).join("src");
        let mut files = BTreeMap::new();
        read_modules(&root, &mut Vec::new(), &mut files);
        let mut uses = BTreeMap::new();
        for (module, file) in &files {
            let mut paths = Paths { module, found: Vec::new() };
            paths.visit_file(file);
            let used = paths.found.iter().filter_map(|path| {
                let longest = (1..=path.len()).rev().find(|length| files.contains_key(&path[..*length]))?;
                Some(path[..longest].to_vec())
            });
            uses.insert(module.clone(), used.filter(|used| used != module).collect());
        }
        Self { uses }
    }

    /// The folder that a module is in: the name of the folder in `src`, of which `folder.rs` is part; nothing for other files there.
    fn folder<'m>(&self, module: &'m Module) -> Option<&'m str> {
        let first = module.first()?;
        let is_folder = self.uses.keys().any(|other| other.len() > 1 && other.first() == Some(first));
        is_folder.then_some(first)
    }

    fn reached_from(&self, module: &Module) -> BTreeSet<Module> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&Module> = self.uses[module].iter().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module.clone()) {
                next.extend(&self.uses[module]);
            }
        }
        reached
    }
}

fn read_modules(folder: &Path, within: &mut Module, files: &mut BTreeMap<Module, syn::File>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            within.push(name);
            read_modules(&path, within, files);
            within.pop();
        } else if name != "lib" {
            let mut module = within.clone();
            module.extend((name != "mod").then_some(name));
            let text = std::fs::read_to_string(&path).expect("a source file");
            files.insert(module, syn::parse_file(&text).expect("Rust"));
        }
    }
}

/// What a file names of its own crate, as paths from the root.
struct Paths<'m> {
    module: &'m Module,
    found: Vec<Vec<String>>,
}

impl Paths<'_> {
    fn add(&mut self, path: &[String]) {
        let mut start = match path.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return,
        };
        for segment in path {
            match segment.as_str() {
                "crate" | "self" => {}
                "super" => drop(start.pop()),
                other => start.push(other.to_owned()),
            }
        }
        self.found.push(start);
    }

    fn add_tree(&mut self, within: &mut Vec<String>, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                within.push(path.ident.to_string());
                self.add_tree(within, &path.tree);
                within.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(within, tree)),
            syn::UseTree::Name(name) => self.add(&[within.as_slice(), &[name.ident.to_string()]].concat()),
            syn::UseTree::Rename(rename) => self.add(&[within.as_slice(), &[rename.ident.to_string()]].concat()),
            _ => self.add(within),
        }
    }
}

impl<'a> Visit<'a> for Paths<'_> {
    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        // What a module inside a file means by `super` is that file, and its tests may use anything.
        if module.content.is_none() {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.add_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(&segments);
        visit::visit_path(self, path);
    }
}
