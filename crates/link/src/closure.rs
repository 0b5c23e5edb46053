//! For every file of a tree: whether the loader finds what it needs, in the versions that it needs.

use std::collections::{BTreeMap, HashMap, HashSet};

use kiln_fatbin::Machine;
use kiln_picture::NodeId;

use crate::finding::{Finding, Outcome, Role};
use crate::hint::{self, Cuda};
use crate::known;
use crate::object::Object;
use crate::search::{Needer, Search};
use crate::tree::{Tree, file_name};

/// Objects that one program is followed to: far above what programs load.
const MOST_LOADED: usize = 1 << 12;
/// The C library, without which a tree is no whole system.
const LIBC: &str = "libc.so.6";

/// How a tree is run.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Directories of `LD_LIBRARY_PATH`, in its order. Those that do not begin with a slash begin at the working
    /// directory or at a program's own, which differ between programs: they are left out.
    pub library_path: Vec<String>,
    /// Whether the tree is part of a system, such as a site-packages directory, whose C library and what comes with it
    /// are taken for there. Where nothing is said, a tree without `libc.so.6` is.
    pub partial: Option<bool>,
    /// What the tree runs on. Where nothing is said, everything that the tree has a C library for; without one, what
    /// most of its objects are for. Objects for other machines are left alone.
    pub machine: Option<Machine>,
}

/// A library that a program loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The name that it is needed under.
    pub library: String,
    /// What needs it: the first that does.
    pub by: String,
    /// Where it is found; nowhere if it is not.
    pub path: Option<String>,
}

/// An object of the tree, and what is asked of it.
#[derive(Clone, Copy)]
struct Subject<'t> {
    path: &'t str,
    place: NodeId,
    object: &'t Object,
    role: Role,
}

struct Closure<'t> {
    tree: &'t Tree,
    search: Search<'t>,
    objects: Vec<(String, NodeId, &'t Object)>,
    /// Libraries by their names, the names of their files, and those of links to them.
    named: HashMap<String, Vec<(String, NodeId)>>,
    partial: bool,
    cuda: Option<Cuda>,
}

impl Tree {
    /// Checks every object of the tree that is for its machine, x86-64 or aarch64, in the order of paths. What is found
    /// is not listed, nor what is taken for there in a partial tree.
    pub fn check(&self, settings: &Settings) -> Vec<Finding> {
        let closure = Closure::new(self, settings);
        let linked: HashSet<&str> =
            closure.objects.iter().flat_map(|(_, _, object)| object.needed.iter().map(String::as_str)).collect();
        let mut findings = Vec::new();
        for (path, place, object) in &closure.objects {
            let role = Role::of(path, object, &linked);
            closure.check(Subject { path, place: *place, object, role }, &mut findings);
        }
        findings
    }

    /// What a program or library loads and where from, in the loader's order: what `ldd` lists, without what a program
    /// loads by name while it runs. What is found is listed once, what is not, for each object that needs it. Nothing
    /// where there is no such object.
    pub fn loads(&self, path: &str, settings: &Settings) -> Vec<Load> {
        let Some(object) = self.object(path) else { return Vec::new() };
        let search = Search::new(self, &settings.library_path);
        let first = Loaded { object, needer: Needer::new(object, path), path: path.to_owned(), by: None };
        let mut loaded = vec![first];
        let mut names: HashSet<&str> = object.soname.as_deref().into_iter().collect();
        let mut places: HashSet<NodeId> = self.find(path).into_iter().collect();
        let (mut loads, mut next) = (Vec::new(), 0);
        while let Some((object, by)) = loaded.get(next).map(|loaded| (loaded.object, loaded.path.clone())) {
            for library in &object.needed {
                if loaded.len() >= MOST_LOADED || names.contains(library.as_str()) {
                    continue;
                }
                let hit = search.find(&chain(&loaded, next), library);
                if let Some(hit) = &hit
                    && let Some(object) = self.object_at(hit.place)
                {
                    names.insert(library);
                    names.extend(object.soname.as_deref());
                    if places.insert(hit.place) {
                        let (path, needer) = (hit.path.clone(), Needer::new(object, &hit.path));
                        loaded.push(Loaded { object, needer, path, by: Some(next) });
                    }
                }
                loads.push(Load { library: library.clone(), by: by.clone(), path: hit.map(|hit| hit.path) });
            }
            next += 1;
        }
        loads
    }
}

/// An object that has been loaded, where it was found, and for which of the others.
struct Loaded<'t> {
    object: &'t Object,
    needer: Needer<'t>,
    path: String,
    by: Option<usize>,
}

/// An object, what it was loaded for, and so on up to the program.
fn chain<'l, 't>(loaded: &'l [Loaded<'t>], from: usize) -> Vec<&'l Needer<'t>> {
    let up = std::iter::successors(loaded.get(from), |loaded_for| loaded.get(loaded_for.by?));
    up.map(|loaded| &loaded.needer).collect()
}

impl<'t> Closure<'t> {
    fn new(tree: &'t Tree, settings: &'t Settings) -> Self {
        let mut objects = tree.objects_by_place();
        let machines = machines(&objects, settings);
        objects.retain(|(_, _, object)| machines.contains(&object.machine));
        let mut named: HashMap<String, Vec<(String, NodeId)>> = HashMap::new();
        for (path, place, object) in &objects {
            if object.is_library {
                let names = [file_name(path)].into_iter().chain(object.soname.as_deref());
                for name in names.collect::<HashSet<_>>() {
                    named.entry(name.to_owned()).or_default().push((path.clone(), *place));
                }
            }
        }
        for (path, place) in tree.links() {
            if tree.object_at(place).is_some_and(|object| object.is_library) {
                named.entry(file_name(&path).to_owned()).or_default().push((path, place));
            }
        }
        // Of several, what is least deep is the likeliest.
        for libraries in named.values_mut() {
            libraries.sort_by_cached_key(|(path, _)| (path.split('/').count(), path.clone()));
        }
        let partial = settings.partial.unwrap_or_else(|| !named.contains_key(LIBC));
        let cuda = objects.iter().find_map(|(_, _, object)| Cuda::of(object.soname.iter()));
        Self { tree, search: Search::new(tree, &settings.library_path), objects, named, partial, cuda }
    }

    fn check(&self, subject: Subject<'_>, findings: &mut Vec<Finding>) {
        let object = subject.object;
        if let Some(interpreter) = &object.interpreter
            && !self.partial
            && self.tree.find(interpreter).is_none()
        {
            // Nothing else is looked for then.
            findings.push(finding(subject, interpreter, Outcome::InterpreterMissing));
            return;
        }
        let needer = Needer::new(object, subject.path);
        let mut seen = HashSet::new();
        for library in object.needed.iter().filter(|library| seen.insert(library.as_str())) {
            if let Some(outcome) = self.outcome(subject, &needer, library) {
                let mut finding = finding(subject, library, outcome);
                if finding.outcome == Outcome::Missing {
                    let cuda = Cuda::of(object.needed.iter()).or(self.cuda);
                    finding.hint = hint::of(library, cuda);
                }
                findings.push(finding);
            }
        }
    }

    /// What there is to say about one library that an object needs.
    fn outcome(&self, subject: Subject<'_>, needer: &Needer<'_>, library: &str) -> Option<Outcome> {
        if let Some(hit) = self.search.find(&[needer], library) {
            let path = self.tree.resolve(&hit.path).unwrap_or(hit.path);
            return self.versions(subject.object, library, &path, hit.place);
        }
        if known::is_of_the_driver(library) {
            return Some(Outcome::Driver);
        }
        if self.partial && known::is_of_the_system(library) {
            return None;
        }
        // Others of that name that are of this machine, what has all versions first.
        let others = self.named.get(file_name(library)).into_iter().flatten();
        let others = others.filter(|(_, place)| {
            *place != subject.place && self.tree.object_at(*place).is_some_and(|o| o.machine == subject.object.machine)
        });
        let mut wrong = None;
        for (path, place) in others {
            match self.versions(subject.object, library, path, *place) {
                None => return Some(Outcome::Elsewhere { path: path.clone() }),
                other => wrong = wrong.or(other),
            }
        }
        Some(wrong.unwrap_or(Outcome::Missing))
    }

    /// Versions that an object needs of a library and that this one has not. A library without any versions is taken as
    /// it is: the loader only warns.
    fn versions(&self, object: &Object, library: &str, path: &str, place: NodeId) -> Option<Outcome> {
        let mut required = object.requires.iter().filter(|needed| needed.library == library && !needed.weak).peekable();
        required.peek()?;
        let provided = &self.tree.object_at(place)?.provides;
        if provided.is_empty() {
            return None;
        }
        let known: HashSet<&str> = provided.iter().map(String::as_str).collect();
        let lacking: BTreeMap<Vec<Part<'_>>, &str> = required
            .filter(|needed| !known.contains(needed.version.as_str()))
            .map(|needed| (parts(&needed.version), needed.version.as_str()))
            .collect();
        let highest = lacking.last_key_value()?.1;
        let most = family(highest).and_then(|line| {
            provided.iter().filter(|version| family(version) == Some(line)).max_by_key(|version| parts(version))
        });
        Some(Outcome::VersionMissing {
            provider: path.to_owned(),
            versions: lacking.values().map(|version| (*version).to_owned()).collect(),
            most: most.cloned(),
        })
    }
}

/// What the objects to be checked are for.
fn machines(objects: &[(String, NodeId, &Object)], settings: &Settings) -> Vec<Machine> {
    let mut counts = [Machine::X86_64, Machine::Aarch64].map(|machine| (0, machine));
    let mut with_libc = HashSet::new();
    for (_, _, object) in objects {
        for (count, machine) in &mut counts {
            *count += usize::from(*machine == object.machine);
        }
        if object.soname.as_deref() == Some(LIBC) {
            with_libc.insert(object.machine);
        }
    }
    counts.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let wanted = |machine: &Machine, first: bool| match settings.machine {
        Some(only) => *machine == only,
        None if with_libc.is_empty() => first,
        None => with_libc.contains(machine),
    };
    let chosen = counts.iter().enumerate().filter(|(index, (_, machine))| wanted(machine, *index == 0));
    chosen.map(|(_, (_, machine))| *machine).collect()
}

fn finding(subject: Subject<'_>, library: &str, outcome: Outcome) -> Finding {
    Finding { object: subject.path.to_owned(), role: subject.role, library: library.to_owned(), outcome, hint: None }
}

/// Versions are compared by their numbers: 2.4 is before 2.34.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part<'v> {
    Word(&'v str),
    // Digits without leading zeros, the fewer the smaller.
    Number(usize, &'v str),
}

fn parts(version: &str) -> Vec<Part<'_>> {
    let part = |text| match str::trim_start_matches(text, '0') {
        digits if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Part::Number(digits.len(), digits)
        }
        _ => Part::Word(text),
    };
    version.split(['_', '.']).map(part).collect()
}

/// What versions of one line have in common: `GLIBC` of `GLIBC_2.34`; versions without a number have none.
fn family(version: &str) -> Option<&str> {
    let (family, number) = version.rsplit_once('_')?;
    number.starts_with(|first: char| first.is_ascii_digit()).then_some(family)
}
