//! One image table, resolved.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Component, Path};

use super::{config, expand, files, from, python, reference_component, target, users};
use crate::base::BaseFacts;
use crate::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::gpu::Form;
use crate::platform::Platform;
use crate::reference::{Reference, Repository, says_registry};
use crate::stack::image::{Compression, From, GpuCode, Image, Prune, Target};
use crate::stack::read::Overrides;
use crate::stack::requirement;
use crate::stack::spanned::Spanned;
use crate::stack::vars::Vars;
use crate::stack::written::{ImageTable, PruneWritten, StackFile, Text};
use crate::whiteout;

/// The surroundings in which the images of a stack are read.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) file: &'a StackFile,
    /// The stack's name.
    pub(super) stack: &'a str,
    pub(super) overrides: &'a Overrides,
    pub(super) vars: &'a Vars,
    pub(super) warnings: &'a RefCell<Vec<String>>,
}

impl Context<'_> {
    /// Warns of names that are left to a shell or to the image below, and that are nearly those of variables.
    pub(super) fn warn_of_names(&self, text: &str) {
        for (name, near) in self.vars.nearly_declared(text) {
            self.warn(format!(
                "`${{{name}}}` is no variable of the stack file and is left as it is: `${{{near}}}` is one"
            ));
        }
    }

    /// Warns, once.
    pub(super) fn warn(&self, warning: String) {
        if !self.warnings.borrow().contains(&warning) {
            self.warnings.borrow_mut().push(warning);
        }
    }
}

pub(super) fn image(
    (name, table): (&Spanned<String>, &ImageTable),
    context: &Context<'_>,
    platform: Platform,
    wrong: &mut Diagnostics,
) -> Image {
    let Context { file, stack, overrides, .. } = *context;
    let target = &target::target(&target::written_for(table, file, context.vars), overrides, context.vars, wrong);
    let vars = &context.vars.with_built_in(target::built_in(target, overrides.variant.as_deref(), platform));
    let context = &Context { vars, ..*context };
    reference_component(name.get(), name, "an image's name", wrong);
    let from_resolved = from(&table.from, file, vars, wrong);
    if table.base_facts.is_some() && matches!(from_resolved, From::Image(_)) {
        wrong.push(
            Diagnostic::at(table.from.span(), "`base-facts` describe a base, and this image stands on another image")
                .hint("move them to the image at the top of the chain"),
        );
    }
    let tags = table.tags.as_ref().or(file.stack.tags.as_ref());
    let (users, user) = users::users(table, vars, wrong);
    Image {
        name: name.get().clone(),
        span: name.span(),
        from: from_resolved,
        from_span: table.from.span(),
        system: table.system.as_ref().map(|system| super::base::system(system, vars, wrong)),
        setup: table.setup.iter().filter_map(|run| super::run::run(run, context, wrong)).collect(),
        run: table.run.iter().filter_map(|run| super::run::run(run, context, wrong)).collect(),
        base_facts: table.base_facts.clone().map(BaseFacts::with_normalised_names),
        requirements: requirement::requirements(&table.packages, &file.groups, vars, wrong),
        requirements_files: python::requirements_files(table.requirements.as_ref(), vars, wrong),
        resolution: python::resolution(&file.resolution, &table.resolution, vars, wrong),
        winners: python::winners(table.overlaps.as_ref(), vars, wrong),
        target: target.clone(),
        python: python::environment(table.python.as_ref().map(Spanned::get), vars, wrong),
        copy: table.copy.iter().filter_map(|table| files::copy(table, context, wrong)).collect(),
        files: table.files.iter().filter_map(|table| files::file(table, context, wrong)).collect(),
        users,
        user,
        user_span: table.user.as_ref().map_or_else(|| name.span(), Spanned::span),
        timezone: table.timezone.as_ref().and_then(|text| config::timezone(text, vars, wrong)),
        env: config::variables(&table.env, context, wrong),
        workdir: table.workdir.as_ref().map(|text| absolute(text, vars, wrong)),
        entrypoint: table.entrypoint.as_ref().map(|text| config::command(text, context, wrong)),
        entrypoint_span: table.entrypoint.as_ref().map(Spanned::span),
        command: table.command.as_ref().map(|text| config::command(text, context, wrong)),
        healthcheck: table.healthcheck.as_ref().and_then(|health| config::healthcheck(health, context, wrong)),
        expose: table.expose.iter().flat_map(|port| config::ports(port, vars, wrong)).collect(),
        volumes: table.volumes.iter().map(|text| absolute(text, vars, wrong)).collect(),
        stop_signal: table.stop_signal.as_ref().and_then(|text| config::signal(text, vars, wrong)),
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
        publish: table.publish,
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
        let Some(repository) = image.repository.as_ref().filter(|_| image.publish) else { continue };
        let taken = |other: &&Image| other.publish && other.repository.as_ref() == Some(repository);
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
    let before = wrong.0.len();
    let tag = expand(text, vars, wrong);
    // One without a value stands as it is written, which is said.
    if wrong.0.len() == before && !crate::reference::is_tag(&tag) {
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

/// The text of a path, a variable or an argument, none of which can hold NUL.
pub(super) fn without_nul(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    without_nul_in(text, text.span(), vars, wrong)
}

pub(super) fn without_nul_in(text: &str, span: Span, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let expanded = vars.expand_str(text, span.clone()).unwrap_or_else(|diagnostic| {
        wrong.push(diagnostic);
        text.to_owned()
    });
    refuse_nul(&expanded, span, wrong);
    expanded
}

/// Refuses a text that would end where it holds a NUL.
pub(super) fn refuse_nul(text: &str, span: Span, wrong: &mut Diagnostics) {
    if text.contains('\0') {
        let message = format!("`{}` holds a NUL", text.escape_debug());
        wrong.push(Diagnostic::at(span, message).hint("paths, variables and arguments end at the first NUL"));
    }
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
pub(super) fn choice<T: Clone>(
    text: Option<&Text>,
    valid: &[(&str, T)],
    what: &str,
    vars: &Vars,
    wrong: &mut Diagnostics,
) -> T {
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
    project_path_in(text, text.span(), vars, wrong)
}

/// As [`project_path`], of a text that stands somewhere.
pub(super) fn project_path_in(text: &str, span: Span, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let path = without_nul_in(text, span.clone(), vars, wrong);
    let outside = Path::new(&path).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir));
    if path.is_empty() || outside {
        wrong.push(
            Diagnostic::at(span, format!("`{path}` is outside the project"))
                .hint("paths are relative to the stack file and stay below its directory"),
        );
    }
    path
}

pub(super) fn absolute(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
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

/// A size: a number of bytes, with an optional unit.
pub(super) fn size(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> Option<u64> {
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

/// Returns true for the name of a user or a group (useradd(8)).
pub(super) fn is_user_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
    name.chars().all(allowed) && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
}
