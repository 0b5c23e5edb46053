//! From the stack as written to the stack as meant.

use std::cell::RefCell;
use std::collections::BTreeMap;

use url::Url;

use super::image::{Cache, From, Image, Index, Recipe, Stack, Trust};
use super::read::Overrides;
use super::requirement;
use super::vars::Vars;
use super::written::{CacheTable, IndexTable, StackFile, Text, TrustWritten, WheelTable};
use crate::diagnostic::{Diagnostic, Diagnostics, closest};
use crate::platform::Platform;
use crate::public_key::PublicKey;
use crate::reference::{InvalidReference, Repository};
use crate::secret;
use crate::stack::Spanned;

mod base;
mod config;
mod files;
mod images;
mod python;
mod remote;
mod run;
mod target;
mod users;
mod variants;

use base::{from, from_name};
pub use python::last_moment;

pub(super) fn resolve(written: &StackFile, overrides: &Overrides) -> Result<Stack, Diagnostics> {
    let mut wrong = Diagnostics::default();
    let chosen = variants::chosen(written, overrides, &mut wrong);
    let written = chosen.as_ref().unwrap_or(written);
    let vars = variables(written, overrides, &mut wrong);
    let name = expand(&written.stack.name, &vars, &mut wrong);
    reference_component(&name, &written.stack.name, "the stack's name", &mut wrong);
    let (platforms, partial) = target::platforms(&written.target, overrides, &vars, &mut wrong);
    // What is wrong in `[target]` is told though no image may take it.
    target::target(&written.target, overrides, &vars, &mut wrong);
    let index = index(&written.index, &vars, &mut wrong);
    let cache = written.cache.as_ref().and_then(|table| cache(table, &vars, &mut wrong));
    let recipes = recipes(&written.wheels, &vars, &mut wrong);
    let secrets = run::secrets(&written.secrets, &vars, &mut wrong);
    let warnings = RefCell::default();
    let context = images::Context { file: written, stack: &name, overrides, vars: &vars, warnings: &warnings };
    let (images, elsewhere) = images_on_platforms(&platforms, &context, &mut wrong);
    let (variant, variants) = (variants::key(overrides), variants::declared(written));
    if images.is_empty() && wrong.0.is_empty() {
        wrong.push(
            Diagnostic::nowhere("the stack has no image")
                .hint("add one: `[images.NAME]` with `from = \"...\"` and `packages = [...]`"),
        );
    }
    images::no_tag_is_taken_twice(&images, &mut wrong);
    target::python_is_said(&images, &mut wrong);
    target::base_packages_are_seen(&images, &mut wrong);
    wrong.or(Stack {
        name,
        variant,
        variants,
        platforms,
        partial,
        index,
        cache,
        recipes,
        secrets,
        images,
        elsewhere,
        warnings: warnings.into_inner(),
    })
}

/// The images as they are on each platform but the first.
type Elsewhere = BTreeMap<Platform, Vec<Image>>;

/// Reads all images for the first platform, and for each other one: `${arch}` differs.
fn images_on_platforms(
    platforms: &[Platform],
    context: &images::Context<'_>,
    wrong: &mut Diagnostics,
) -> (Vec<Image>, Elsewhere) {
    let written = context.file;
    let mut all = Vec::new();
    for platform in platforms {
        // What is wrong on every platform is said once.
        let mut found = Diagnostics::default();
        let before = std::mem::take(&mut wrong.0);
        found.0.clone_from(&before);
        let read =
            written.images.iter().map(|(key, table)| images::image((key, table), context, *platform, &mut found));
        let mut images: Vec<Image> = read.collect();
        order(&mut images, &mut found);
        inherit_environments(&mut images);
        wrong.0 = found.0;
        all.push((*platform, images));
        if wrong.0.len() > before.len() {
            break;
        }
    }
    let mut all = all.into_iter();
    let first = all.next().map(|(_, images)| images).unwrap_or_default();
    (first, all.collect())
}

/// Gives each image the environment of the image below it, where it says none. Images stand after those below them.
fn inherit_environments(images: &mut [Image]) {
    for at in 0..images.len() {
        let (below, rest) = images.split_at_mut(at);
        let Some(image) = rest.first_mut().filter(|image| image.python.environment.is_none()) else { continue };
        if let From::Image(name) = &image.from {
            let parent = below.iter().find(|other| other.name == *name);
            image.python.environment = parent.and_then(|parent| parent.python.environment);
        }
    }
}

fn variables(written: &StackFile, overrides: &Overrides, wrong: &mut Diagnostics) -> Vars {
    let mut vars: BTreeMap<String, String> =
        written.vars.iter().map(|(name, value)| (name.get().clone(), value.get().clone())).collect();
    for (name, value) in &overrides.vars {
        if vars.insert(name.clone(), value.clone()).is_none() {
            let message = format!("`--var {name}=...`: the stack declares no variable `{name}`");
            let close = closest(name, written.vars.keys().map(|name| name.as_str()));
            let hint = close.map(|close| format!("did you mean `{close}`?"));
            wrong.push(Diagnostic { message, labels: Vec::new(), hint });
        }
    }
    Vars::new(vars)
}

/// The text with variables replaced; where that fails the mistake is noted and the text stands as written.
fn expand(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    vars.expand(text).unwrap_or_else(|diagnostic| {
        wrong.push(diagnostic);
        text.get().clone()
    })
}

fn expand_all(texts: &[Text], vars: &Vars, wrong: &mut Diagnostics) -> Vec<String> {
    texts.iter().map(|text| expand(text, vars, wrong)).collect()
}

/// A component of a repository name (OCI distribution specification, "Pulling manifests").
fn reference_component(value: &str, at: &Spanned<String>, what: &str, wrong: &mut Diagnostics) {
    let separator = |c: char| matches!(c, '.' | '_' | '-');
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || separator(c);
    if value.is_empty() || !value.chars().all(allowed) || value.starts_with(separator) || value.ends_with(separator) {
        wrong.push(
            Diagnostic::at(at.span(), format!("`{value}` cannot be {what}"))
                .hint("lower-case letters, digits, and `.`, `_`, `-` between them: it becomes part of a reference"),
        );
    }
}

fn index(written: &IndexTable, vars: &Vars, wrong: &mut Diagnostics) -> Index {
    let mut packages = BTreeMap::new();
    for (name, url) in &written.packages {
        match requirement::name(name.get(), name.span()) {
            Ok(name) => {
                packages.insert(name, address(url, vars, wrong));
            }
            Err(diagnostic) => wrong.push(diagnostic),
        }
    }
    Index {
        default: written.default.as_ref().map(|url| address(url, vars, wrong)),
        extra: written.extra.iter().map(|url| address(url, vars, wrong)).collect(),
        packages,
        find_links: written.find_links.iter().map(|url| address(url, vars, wrong)).collect(),
    }
}

/// The address of an index, or a path. One whose user information holds unescaped characters names another host.
fn address(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let address = expand(text, vars, wrong);
    let starts = |scheme: &str| address.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    if !starts("http:") && !starts("https:") {
        return address;
    }
    let shown = secret::redact_address(&address);
    let problem = match Url::parse(&address) {
        Ok(parsed) => {
            let user = !parsed.username().is_empty() || parsed.password().is_some();
            let more = parsed[url::Position::AfterHost..].contains('@');
            (shown != address && (more || !user)).then(|| format!("`{shown}` has an `@` after its host"))
        }
        Err(error) => Some(format!("`{shown}` is not an address: {error}")),
    };
    if let Some(problem) = problem {
        wrong.push(Diagnostic::at(text.span(), problem).hint(
            "in names and passwords `/` is written `%2F`, `#` `%23`, `?` `%3F`, `@` `%40`, `:` `%3A` and `%` `%25`",
        ));
    }
    address
}

fn cache(written: &CacheTable, vars: &Vars, wrong: &mut Diagnostics) -> Option<Cache> {
    let text = expand(&written.remote, vars, wrong);
    let remote: Result<Repository, InvalidReference> = text.parse();
    let mut keys = Vec::new();
    if let Some(trust) = &written.trust {
        match trust.get() {
            TrustWritten::Word(word) if word == "registry" => {}
            TrustWritten::Word(word) => wrong.push(
                Diagnostic::at(trust.span(), format!("`{word}` is not a value of `cache.trust`"))
                    .hint("`\"registry\"`, or a list of public keys: `kiln cache keygen` makes one"),
            ),
            TrustWritten::Keys(texts) => {
                if texts.is_empty() {
                    wrong.push(
                        Diagnostic::at(trust.span(), "`cache.trust` names no key, so nothing of the cache would count")
                            .hint("leave `[cache]` out, or name the public keys of those who write it"),
                    );
                }
                for text in texts {
                    match text.parse::<PublicKey>() {
                        Ok(key) => keys.push(key),
                        Err(error) => wrong.push(
                            Diagnostic::at(trust.span(), error.to_string()).hint("`kiln cache keygen` prints one"),
                        ),
                    }
                }
            }
        }
    }
    match remote {
        Ok(remote) => Some(Cache { remote, trust: if keys.is_empty() { Trust::Registry } else { Trust::Keys(keys) } }),
        Err(error) => {
            wrong.push(
                Diagnostic::at(written.remote.span(), format!("`{text}` is not a repository: {}", error.problem))
                    .hint("such as `ghcr.io/acme/kiln-cache`, without a tag"),
            );
            None
        }
    }
}

fn recipes(
    written: &BTreeMap<Spanned<String>, WheelTable>,
    vars: &Vars,
    wrong: &mut Diagnostics,
) -> BTreeMap<pep508_rs::PackageName, Recipe> {
    let mut recipes = BTreeMap::new();
    for (name, table) in written {
        let version = table.version.as_ref().map(|text| {
            let version = expand(text, vars, wrong);
            if let Err(error) = version.parse::<pep440_rs::Version>() {
                wrong.push(Diagnostic::at(text.span(), format!("`{version}` is not a version: {error}")));
            }
            version
        });
        let dependencies = table.dependencies.as_ref().map(|texts| {
            let mut checked = Vec::new();
            for text in texts {
                match vars.expand(text).and_then(|expanded| requirement::parse(&expanded, text.span())) {
                    Ok(requirement) => checked.push(requirement.text),
                    Err(diagnostic) => wrong.push(diagnostic),
                }
            }
            checked
        });
        match requirement::name(name.get(), name.span()) {
            Ok(key) => {
                recipes.insert(key, Recipe { span: name.span(), version, dependencies });
            }
            Err(diagnostic) => wrong.push(diagnostic),
        }
    }
    recipes
}

/// Sorts images so that each stands after those that it is built from and copies from; notes cycles.
fn order(images: &mut Vec<Image>, wrong: &mut Diagnostics) {
    let mut placed: Vec<Image> = Vec::with_capacity(images.len());
    loop {
        let is_placed = |name: &str| placed.iter().any(|placed| placed.name == name);
        let ready = images.iter().position(|image| image.needs().all(|(name, _)| is_placed(name)));
        match ready {
            Some(at) => placed.push(images.remove(at)),
            None => break,
        }
    }
    let left: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    let mut places = images.iter().filter_map(|image| {
        let (name, span) = image.needs().find(|(name, _)| left.contains(name))?;
        let verb = if matches!(&image.from, From::Image(below) if below == name) { "is built" } else { "copies" };
        Some((span, format!("`{}` {verb} from this", image.name)))
    });
    if let Some((span, label)) = places.next() {
        let mut diagnostic = Diagnostic::at(span, "these images are built from one another").label(label);
        for (span, label) in places {
            diagnostic = diagnostic.also(span, label);
        }
        let hint = match images.iter().all(|image| matches!(&image.from, From::Image(_))) {
            true => "one of them needs a base: `{ debian = \"bookworm\" }`, `{ oci = \"PATH\" }`",
            false => "an image is made after those that it copies from: leave one of the copies out",
        };
        wrong.push(diagnostic.hint(hint));
    }
    *images = placed;
}
