//! One image table, resolved.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use super::{expand, expand_all, from, reference_component};
use crate::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::gpu::Form;
use crate::reference::{Reference, Repository, says_registry};
use crate::stack::image::{
    Compression, Copy, Environment, From, GpuCode, Image, Owner, Prune, RequirementsFile, Target, User,
};
use crate::stack::requirement;
use crate::stack::spanned::Spanned;
use crate::stack::vars::Vars;
use crate::stack::written::{CopyTable, ImageTable, PruneWritten, StackFile, Text, UserWritten};
use crate::whiteout;

pub(super) fn image(
    name: &Spanned<String>,
    table: &ImageTable,
    file: &StackFile,
    stack: &str,
    target: &Target,
    vars: &Vars,
    wrong: &mut Diagnostics,
) -> Image {
    reference_component(name.get(), name, "an image's name", wrong);
    let from_resolved = from(&table.from, file, vars, wrong);
    if table.base_facts.is_some() && matches!(from_resolved, From::Image(_)) {
        wrong.push(
            Diagnostic::at(table.from.span(), "`base-facts` describe a base, and this image stands on another image")
                .hint("move them to the image at the top of the chain"),
        );
    }
    let tags = table.tags.as_ref().or(file.stack.tags.as_ref());
    Image {
        name: name.get().clone(),
        span: name.span(),
        from: from_resolved,
        from_span: table.from.span(),
        base_facts: table.base_facts.clone(),
        requirements: requirement::requirements(&table.packages, &file.groups, vars, wrong),
        requirements_file: table
            .requirements
            .as_ref()
            .map(|text| RequirementsFile { path: project_path(text, vars, wrong), span: text.span() }),
        environment: environment(table, vars, wrong),
        copy: table.copy.iter().map(|table| copy(table, vars, wrong)).collect(),
        user: table.user.as_ref().map(|written| user(written, vars, wrong)),
        timezone: table.timezone.as_ref().map(|text| timezone(text, vars, wrong)),
        env: variables(&table.env, vars, wrong),
        workdir: table.workdir.as_ref().map(|text| absolute(text, vars, wrong)),
        entrypoint: table.entrypoint.as_ref().map(|texts| words(texts, vars, wrong)),
        command: table.command.as_ref().map(|texts| words(texts, vars, wrong)),
        labels: expand_map(&table.labels, vars, wrong),
        persist: table.persist,
        compression: compression(table, vars, wrong),
        max_layer_size: table.max_layer_size.as_ref().and_then(|text| size(text, vars, wrong)),
        prune: table.prune.as_ref().and_then(|written| prune(written, target, wrong)),
        gpu_code: gpu_code(table, target, vars, wrong),
        except: except(table, vars, wrong),
        repository: repository(table, file, (stack, name.get()), vars, wrong),
        tags: tags.map_or_else(
            || vec!["latest".to_owned()],
            |texts| texts.iter().map(|text| tag(text, vars, wrong)).collect(),
        ),
    }
}

/// Returns the repository of an image: the one that it names, or `<registry>/<stack>/<image>`.
fn repository(
    table: &ImageTable,
    file: &StackFile,
    (stack, image): (&str, &str),
    vars: &Vars,
    wrong: &mut Diagnostics,
) -> Option<Repository> {
    if let Some(text) = &table.repository {
        if let Some(registry) = &table.registry {
            let message = "`registry` and `repository` both say where the image goes";
            wrong.push(Diagnostic::at(registry.span(), message).hint("leave `registry` out"));
        }
        return whole_repository(text, vars, wrong);
    }
    let text = table.registry.as_ref().or(file.stack.registry.as_ref())?;
    let registry = expand(text, vars, wrong);
    let parsed = format!("{}/{stack}/{image}", registry.trim_end_matches('/')).parse::<Repository>();
    if let Err(error) = &parsed
        && !wrong.0.iter().any(|other| other.labels.iter().any(|label| label.span == text.span()))
        && reference_is_sound(stack, image)
    {
        wrong.push(
            Diagnostic::at(text.span(), format!("`{registry}` is not a place on a registry: {}", error.problem))
                .hint("such as `ghcr.io/acme`: images become `<registry>/<stack>/<image>`"),
        );
    }
    parsed.ok()
}

/// Finds images that would take one another's tags.
pub(super) fn no_tag_is_taken_twice(images: &[Image], wrong: &mut Diagnostics) {
    for (at, image) in images.iter().enumerate() {
        let Some(repository) = &image.repository else { continue };
        let taken = |other: &&Image| other.repository.as_ref() == Some(repository);
        for other in images[..at].iter().filter(taken) {
            if let Some(tag) = image.tags.iter().find(|tag| other.tags.contains(tag)) {
                let (first, second) = (&other.name, &image.name);
                let message = format!("`{first}` and `{second}` both go to `{repository}:{tag}`");
                wrong.push(Diagnostic::at(image.span.clone(), message).hint("give each its own `tags`"));
            }
        }
    }
}

fn whole_repository(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> Option<Repository> {
    let written = expand(text, vars, wrong);
    let hint = "such as `docker.io/acme/train`; tags are said with `tags`";
    let parsed = match written.parse::<Repository>() {
        Ok(_) if !says_registry(&written) => Err("it does not say its registry".to_owned()),
        Ok(repository) => Ok(repository),
        Err(_) if written.contains('/') && written.parse::<Reference>().is_ok() => {
            Err("it has a tag or a digest".to_owned())
        }
        Err(error) => Err(error.problem),
    };
    let problem = |problem| {
        let message = format!("`{written}` is not a repository on a registry: {problem}");
        wrong.push(Diagnostic::at(text.span(), message).hint(hint));
    };
    parsed.map_err(problem).ok()
}

/// Whether stack and image can be in a reference at all: that they cannot is said where they stand.
fn reference_is_sound(stack: &str, image: &str) -> bool {
    format!("{stack}/{image}").parse::<Repository>().is_ok()
}

fn tag(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let tag = expand(text, vars, wrong);
    if !crate::reference::is_tag(&tag) {
        wrong.push(
            Diagnostic::at(text.span(), format!("`{tag}` cannot be a tag"))
                .hint("letters, digits, `_`, `.` and `-`, not beginning with the last two, at most 128"),
        );
    }
    tag
}

fn expand_map(map: &BTreeMap<String, Text>, vars: &Vars, wrong: &mut Diagnostics) -> BTreeMap<String, String> {
    map.iter().map(|(key, text)| (key.clone(), expand(text, vars, wrong))).collect()
}

/// Environment variables. A program gets each as `NAME=VALUE`, ended by NUL (POSIX, "Environment Variables").
fn variables(map: &BTreeMap<Spanned<String>, Text>, vars: &Vars, wrong: &mut Diagnostics) -> BTreeMap<String, String> {
    for name in map.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("`{}` cannot be the name of an environment variable", name.escape_debug());
            wrong.push(Diagnostic::at(name.span(), message).hint("a name is not empty and holds neither `=` nor NUL"));
        }
    }
    map.iter().map(|(name, text)| (name.get().clone(), without_nul(text, vars, wrong))).collect()
}

/// The words of a command line.
fn words(texts: &[Text], vars: &Vars, wrong: &mut Diagnostics) -> Vec<String> {
    texts.iter().map(|text| without_nul(text, vars, wrong)).collect()
}

/// The text of a path, a variable or an argument, none of which can hold NUL.
fn without_nul(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let expanded = expand(text, vars, wrong);
    if expanded.contains('\0') {
        let message = format!("`{}` holds a NUL", expanded.escape_debug());
        wrong.push(Diagnostic::at(text.span(), message).hint("paths, variables and arguments end at the first NUL"));
    }
    expanded
}

fn environment(table: &ImageTable, vars: &Vars, wrong: &mut Diagnostics) -> Environment {
    choice(
        table.python.environment.as_ref(),
        &[("venv", Environment::Venv), ("base", Environment::Base)],
        "`python.environment`",
        vars,
        wrong,
    )
}

fn compression(table: &ImageTable, vars: &Vars, wrong: &mut Diagnostics) -> Compression {
    choice(
        table.compression.as_ref(),
        &[("gzip", Compression::Gzip), ("zstd", Compression::Zstd)],
        "`compression`",
        vars,
        wrong,
    )
}

fn prune(written: &Spanned<PruneWritten>, target: &Target, wrong: &mut Diagnostics) -> Option<Prune> {
    let asks_for_ptx = target.gpus.iter().any(|architecture| architecture.form == Form::Virtual);
    let prune = match written.get() {
        PruneWritten::Flag(false) => return None,
        PruneWritten::Flag(true) => Prune { keep_ptx: asks_for_ptx, drop_relocatable: false },
        PruneWritten::Table(table) => {
            Prune { keep_ptx: table.keep_ptx.unwrap_or(asks_for_ptx), drop_relocatable: table.drop_relocatable }
        }
    };
    gpus_are_said("prune", written.span(), target, wrong);
    Some(prune)
}

fn gpu_code(table: &ImageTable, target: &Target, vars: &Vars, wrong: &mut Diagnostics) -> GpuCode {
    let text = table.verify.as_ref().and_then(|verify| verify.gpu_code.as_ref());
    if let Some(text) = text {
        gpus_are_said("verify.gpu-code", text.span(), target, wrong);
    }
    let valid = [("any", GpuCode::Any), ("required", GpuCode::Required), ("native", GpuCode::Native)];
    choice(text, &valid, "`verify.gpu-code`", vars, wrong)
}

fn except(table: &ImageTable, vars: &Vars, wrong: &mut Diagnostics) -> Vec<String> {
    let mut patterns = Vec::new();
    for text in table.verify.iter().flat_map(|verify| &verify.except) {
        let pattern = expand(text, vars, wrong);
        if pattern.trim_matches(['*', '/']).is_empty() {
            let message = format!("the pattern `{pattern}` excepts everything");
            wrong.push(Diagnostic::at(text.span(), message).hint("name what may be missing: `\"vllm/_flashmla*\"`"));
        }
        patterns.push(pattern);
    }
    patterns
}

/// Code for GPUs cannot be judged where no GPU was named.
fn gpus_are_said(key: &str, span: Span, target: &Target, wrong: &mut Diagnostics) {
    // GPUs that were named wrongly have been complained of.
    if target.gpus.is_empty() && !target.native_gpus && wrong.0.is_empty() {
        let message = format!("`{key}` needs to know the GPUs that images are for");
        wrong.push(
            Diagnostic::at(span, message).hint("name them: `gpus = [\"L4\", \"H100\"]` in `[target]`, or `--gpus`"),
        );
    }
}

/// One of a few words; the first is the default.
fn choice<T: Clone>(text: Option<&Text>, valid: &[(&str, T)], what: &str, vars: &Vars, wrong: &mut Diagnostics) -> T {
    let default = valid[0].1.clone();
    let Some(text) = text else { return default };
    let word = expand(text, vars, wrong);
    if let Some((_, value)) = valid.iter().find(|(name, _)| *name == word) {
        return value.clone();
    }
    let names: Vec<String> = valid.iter().map(|(name, _)| format!("`{name}`")).collect();
    let message = format!("`{word}` is not a value of {what}");
    wrong.push(Diagnostic::at(text.span(), message).hint(format!("valid are {}", names.join(", "))));
    default
}

/// A path inside the project: relative, and never above the stack file's directory.
pub(super) fn project_path(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let path = without_nul(text, vars, wrong);
    let outside = Path::new(&path).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir));
    if path.is_empty() || outside {
        wrong.push(
            Diagnostic::at(text.span(), format!("`{path}` is outside the project"))
                .hint("paths are relative to the stack file and stay below its directory"),
        );
    }
    path
}

fn absolute(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let path = without_nul(text, vars, wrong);
    let bad = Path::new(&path).components().any(|part| matches!(part, Component::ParentDir));
    if !path.starts_with('/') || bad {
        wrong.push(
            Diagnostic::at(text.span(), format!("`{path}` is not an absolute path in the image"))
                .hint("it starts with `/` and has no `..`"),
        );
    }
    if let Some(component) = whiteout::component(&path) {
        let message = format!("`{path}` cannot be in a layer: {}", whiteout::problem(component));
        wrong.push(Diagnostic::at(text.span(), message).hint("choose another name"));
    }
    path
}

fn copy(table: &CopyTable, vars: &Vars, wrong: &mut Diagnostics) -> Copy {
    Copy {
        from: project_path(&table.from, vars, wrong),
        from_span: table.from.span(),
        to: absolute(&table.to, vars, wrong),
        exclude: expand_all(&table.exclude, vars, wrong),
        ignore_file: table.ignore_file.as_ref().map(|text| project_path(text, vars, wrong)),
        owner: table.owner.as_ref().map_or_else(Owner::default, |text| owner(&expand(text, vars, wrong))),
        owner_span: table.owner.as_ref().map(Spanned::span),
        mode: table.mode.as_ref().and_then(|text| mode(text, vars, wrong)),
    }
}

fn owner(text: &str) -> Owner {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group.to_owned())),
        None => (text, None),
    };
    Owner { user: Some(user.to_owned()), group }
}

fn mode(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> Option<u32> {
    let digits = expand(text, vars, wrong);
    let mode = u32::from_str_radix(&digits, 8).ok().filter(|mode| *mode <= 0o7777);
    if mode.is_none() {
        let message = format!("`{digits}` is not an octal mode");
        wrong.push(Diagnostic::at(text.span(), message).hint("such as `\"0644\"` or `\"0755\"`"));
    }
    mode
}

/// A size: a number of bytes, with an optional unit.
fn size(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> Option<u64> {
    let written = expand(text, vars, wrong);
    let parsed = crate::size::parse(&written);
    if parsed.is_none() {
        wrong.push(
            Diagnostic::at(text.span(), format!("`{written}` is not a size"))
                .hint("a number with a unit: `512MiB`, `2GiB`, `2GB`"),
        );
    }
    parsed
}

fn timezone(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let zone = expand(text, vars, wrong);
    let part = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+'))
    };
    if !zone.split('/').all(part) {
        wrong.push(
            Diagnostic::at(text.span(), format!("`{zone}` is not the name of a time zone"))
                .hint("an IANA name: `Asia/Seoul`, `America/Los_Angeles`, `UTC`"),
        );
    }
    zone
}

fn user(written: &Spanned<UserWritten>, vars: &Vars, wrong: &mut Diagnostics) -> User {
    let table = match written.get() {
        UserWritten::Name(name) => {
            let name = vars.expand_str(name, written.span()).unwrap_or_else(|diagnostic| {
                wrong.push(diagnostic);
                name.clone()
            });
            return User::Existing(name);
        }
        UserWritten::Table(table) => table,
    };
    let name = expand(&table.name, vars, wrong);
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || !name.chars().all(allowed) || !name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
    {
        wrong.push(
            Diagnostic::at(table.name.span(), format!("`{name}` is not a user name"))
                .hint("lower-case letters, digits, `_`, `-`, `.`, beginning with a letter"),
        );
    }
    let home = table.home.as_ref().map_or_else(|| format!("/home/{name}"), |text| absolute(text, vars, wrong));
    let shell = table.shell.as_ref().map_or_else(|| "/bin/sh".to_owned(), |text| absolute(text, vars, wrong));
    for (text, value) in [(&table.home, &home), (&table.shell, &shell)] {
        if value.contains([':', '\n']) {
            let span = text.as_ref().map_or_else(|| written.span(), Spanned::span);
            wrong.push(Diagnostic::at(span, "a path in /etc/passwd cannot hold `:` or a line break"));
        }
    }
    let uid = *table.uid.get();
    User::Create { uid, gid: table.gid.as_ref().map_or(uid, |gid| *gid.get()), home, shell, name }
}
