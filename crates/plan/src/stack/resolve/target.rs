//! The interpreter and the hardware that images are for: what `[target]` says, and images otherwise.

use std::collections::BTreeSet;
use std::ops::Range;

use super::expand;
use crate::diagnostic::{Diagnostic, Diagnostics, Label};
use crate::gpu::{Architecture, CudaRelease, Form, GpuNames, GpuRequest};
use crate::platform::Platform;
use crate::stack::image::{Image, Python, Target};
use crate::stack::read::Overrides;
use crate::stack::spanned::Spanned;
use crate::stack::vars::{BuiltIn, Vars};
use crate::stack::written::{FromWritten, ImageTable, PythonWritten, StackFile, TargetTable, Text};

/// Returns `[target]` as an image has it: what the image says takes the place, and then what those below it say.
pub(super) fn written_for(image: &ImageTable, file: &StackFile, vars: &Vars) -> TargetTable {
    let mut table = TargetTable { platforms: None, ..TargetTable::default() };
    let mut next = Some(image);
    // No more steps than there are images: images that are built from one another are refused elsewhere.
    for _ in 0..file.images.len() {
        let Some(image) = next else { break };
        let python = image.python.as_ref().and_then(|written| match written.get() {
            PythonWritten::Version(version) => Some(Spanned::new(written.span(), version.clone())),
            PythonWritten::Table(table) => table.version.clone(),
        });
        table.python = table.python.or(python);
        table.cuda = table.cuda.or_else(|| image.cuda.clone());
        if let (true, Some(gpus)) = (table.gpus.is_empty(), &image.gpus) {
            table.gpus.clone_from(gpus);
        }
        next = match image.from.get() {
            FromWritten::Name(name) => {
                let name = vars.expand_str(name, image.from.span()).unwrap_or_default();
                file.images.iter().find(|(known, _)| *known.get() == name).map(|(_, below)| below)
            }
            FromWritten::Table(_) => None,
        };
    }
    table.python = table.python.or_else(|| file.target.python.clone());
    table.cuda = table.cuda.or_else(|| file.target.cuda.clone());
    if table.gpus.is_empty() {
        table.gpus.clone_from(&file.target.gpus);
    }
    table
}

/// Reads a target. What is wrong with it is noted once, however many images have it.
pub(super) fn target(written: &TargetTable, overrides: &Overrides, vars: &Vars, wrong: &mut Diagnostics) -> Target {
    let mut found = Diagnostics::default();
    let target = read(written, overrides, vars, &mut found);
    let is_new = |diagnostic: &Diagnostic| !wrong.0.contains(diagnostic);
    let new: Vec<Diagnostic> = found.0.into_iter().filter(is_new).collect();
    wrong.0.extend(new);
    target
}

fn read(written: &TargetTable, overrides: &Overrides, vars: &Vars, wrong: &mut Diagnostics) -> Target {
    let cuda_text = written.cuda.as_ref().map(|text| (expand(text, vars, wrong), text.span()));
    let cpu_only = cuda_text.as_ref().is_some_and(|(text, _)| text == "none");
    let cuda = cuda_text.as_ref().filter(|_| !cpu_only).and_then(|(text, span)| {
        let release: Result<CudaRelease, _> = text.parse();
        release
            .map_err(|error| {
                let hint = format!("or `none` for CPU builds; known are {}", known_releases());
                wrong.push(Diagnostic::at(span.clone(), error.to_string()).hint(hint));
            })
            .ok()
    });
    let gpus = gpus(written, overrides, vars, cuda, wrong);
    Target {
        python: written.python.as_ref().and_then(|text| python(text, vars, wrong)),
        python_span: written.python.as_ref().map(Spanned::span),
        cuda,
        cpu_only,
        cuda_span: written.cuda.as_ref().map(Spanned::span),
        gpus: gpus.architectures.into_iter().collect(),
        native_gpus: gpus.native,
        gpu_names: gpus.names,
    }
}

fn known_releases() -> String {
    CudaRelease::known().map(|release| format!("`{release}`")).collect::<Vec<_>>().join(", ")
}

/// Returns the platforms of all images, and true if the command line leaves out some that the file names.
pub(super) fn platforms(
    written: &TargetTable,
    overrides: &Overrides,
    vars: &Vars,
    wrong: &mut Diagnostics,
) -> (Vec<Platform>, bool) {
    let texts: Vec<(String, Option<_>)> = match (&overrides.platforms, &written.platforms) {
        (Some(names), _) => names.iter().map(|name| (name.clone(), None)).collect(),
        (None, Some(texts)) => texts.iter().map(|text| (expand(text, vars, wrong), Some(text.span()))).collect(),
        (None, None) => return (Platform::host().into_iter().collect(), false),
    };
    let mut platforms = BTreeSet::new();
    for (text, span) in texts {
        match text.parse::<Platform>() {
            Ok(platform) => {
                platforms.insert(platform);
            }
            Err(error) => wrong.push(place(span, error.to_string())),
        }
    }
    if platforms.is_empty() && wrong.0.is_empty() {
        wrong.push(Diagnostic::nowhere("`target.platforms` is empty").hint("name at least one: `linux/amd64`"));
    }
    let mut named = written.platforms.iter().flatten().filter_map(|text| vars.expand(text).ok()?.parse().ok());
    let partial = named.any(|platform: Platform| !platforms.contains(&platform));
    (platforms.into_iter().collect(), partial)
}

fn place(span: Option<Range<usize>>, message: String) -> Diagnostic {
    let labels = span.into_iter().map(Label::from).collect();
    Diagnostic { message, labels, hint: None }
}

fn python(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> Option<String> {
    let version = expand(text, vars, wrong);
    let minor = version.strip_prefix("3.").and_then(|minor| minor.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < 8) {
        wrong.push(
            Diagnostic::at(text.span(), format!("`{version}` is not a Python version that images can be built for"))
                .hint("`MAJOR.MINOR` from `3.8` on: `3.11`, `3.12`"),
        );
        return None;
    }
    Some(version)
}

/// The GPUs of a target.
#[derive(Default)]
struct Gpus {
    architectures: BTreeSet<Architecture>,
    native: bool,
    names: GpuNames,
}

fn gpus(
    written: &TargetTable,
    overrides: &Overrides,
    vars: &Vars,
    cuda: Option<CudaRelease>,
    wrong: &mut Diagnostics,
) -> Gpus {
    let texts: Vec<(String, Option<_>)> = match &overrides.gpus {
        Some(names) => names.iter().map(|name| (name.clone(), None)).collect(),
        None => written.gpus.iter().map(|text| (expand(text, vars, wrong), Some(text.span()))).collect(),
    };
    let mut gpus = Gpus::default();
    for (text, span) in texts {
        let requests = match GpuRequest::parse_list(&text) {
            Ok(requests) => requests,
            Err(error) => {
                let mut diagnostic = place(span, error.to_string());
                diagnostic.hint = error.hint().or_else(|| Some("`kiln gpus` lists every name and capability".into()));
                wrong.push(diagnostic);
                continue;
            }
        };
        for (asked, request) in requests {
            gpus.names.add(&asked, &request);
            gpus.native |= request == GpuRequest::Native;
            for architecture in request.architectures().unwrap_or_default() {
                if let Some(release) = cuda
                    && let Err(error) = release.require(&architecture)
                {
                    let mut diagnostic = place(span.clone(), format!("{error} (`{asked}`)"));
                    if let Some(cuda) = &written.cuda {
                        diagnostic = diagnostic.also(cuda.span(), format!("CUDA {release} is asked for here"));
                    }
                    diagnostic.hint = error.hint();
                    wrong.push(diagnostic);
                }
                gpus.architectures.insert(architecture);
            }
        }
    }
    gpus
}

/// Returns the variables that every stack file has.
pub(super) fn built_in(target: &Target, variant: Option<&str>, platform: Platform) -> [(&'static str, BuiltIn); 5] {
    let gpus = |list: fn(&Target) -> String| match (target.native_gpus, target.gpus.is_empty()) {
        (true, _) => Err("`native` GPUs are known when the stack is locked"),
        (false, true) => Err("`target.gpus` names none"),
        (false, false) => Ok(list(target)),
    };
    let cuda = match (target.cuda, target.cpu_only) {
        (_, true) => Ok("cpu".to_owned()),
        (Some(release), _) => Ok(format!("cu{}", release.to_string().replace('.', ""))),
        (None, _) => Err("`target.cuda` names no release"),
    };
    [
        ("arch", Ok(platform.cpu.machine().to_owned())),
        ("cuda.tag", cuda),
        ("gpus.cmake", gpus(cmake_list)),
        ("gpus.torch", gpus(torch_list)),
        ("variant", Ok(variant.unwrap_or("default").to_owned())),
    ]
}

/// `80-real;90a-real;90-virtual`: CMake's `CMAKE_CUDA_ARCHITECTURES`.
fn cmake_list(target: &Target) -> String {
    let one = |architecture: &Architecture| {
        let form = if architecture.form == Form::Real { "real" } else { "virtual" };
        format!("{}{}-{form}", architecture.capability.number(), architecture.suffix)
    };
    target.gpus.iter().map(one).collect::<Vec<_>>().join(";")
}

/// `8.0;9.0a;9.0+PTX`: PyTorch's `TORCH_CUDA_ARCH_LIST`, where an entry with PTX has the machine code too.
fn torch_list(target: &Target) -> String {
    let has = |architecture: &Architecture, form| target.gpus.contains(&architecture.with_form(form));
    let real =
        target.gpus.iter().filter(|architecture| architecture.form == Form::Real || !has(architecture, Form::Real));
    let one = |architecture: &Architecture| {
        let ptx = if has(architecture, Form::Virtual) { "+PTX" } else { "" };
        format!("{}{}{ptx}", architecture.capability, architecture.suffix)
    };
    real.map(one).collect::<Vec<_>>().join(";")
}

/// Refuses packages without a Python version.
pub(super) fn python_is_said(images: &[Image], wrong: &mut Diagnostics) {
    if wrong.0.is_empty()
        && let Some(image) = images.iter().find(|image| image.has_packages() && image.target.python.is_none())
    {
        wrong.push(
            Diagnostic::at(image.span.clone(), format!("the image `{}` installs packages", image.name))
                .label("for which Python?")
                .hint("say it: `[target]` with `python = \"3.11\"`"),
        );
    }
}

/// Refuses names of the base's packages in images that install none, where they change nothing; what is removed goes, if it is said
/// from which Python.
pub(super) fn base_packages_are_seen(images: &[Image], wrong: &mut Diagnostics) {
    for image in images.iter().filter(|image| !image.has_packages()) {
        let Python { accept, replace, remove, .. } = &image.python;
        let remove: &[_] = if image.target.python.is_some() { &[] } else { remove };
        for (key, list) in [("accept", accept.as_slice()), ("replace", replace), ("remove", remove)] {
            if let Some(named) = list.first() {
                let message = format!("`{}` has no packages, which `python.{key}` is about", image.name);
                wrong.push(Diagnostic::at(named.span.clone(), message).hint("write it to the image that has them"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::stack::{Overrides, read};

    /// Returns Python, CUDA and GPUs of each image.
    fn targets(overrides: &Overrides) -> Vec<String> {
        let text = "[stack]\nname = \"s\"\n[target]\npython = \"3.11\"\ncuda = \"12.8\"\ngpus = [\"8.0\"]\n\
            [variants.new]\ncuda = \"13.0\"\n\
            [images.a]\nfrom = { oci = \"x\" }\ncuda = \"none\"\npython = \"3.12\"\n\
            [images.b]\nfrom = \"a\"\ngpus = [\"9.0\"]\nenv = { LIST = \"${gpus.torch}\" }\n\
            [images.c]\nfrom = { oci = \"x\" }\npython = { environment = \"base\" }\n";
        let stack = read(text, overrides).unwrap();
        let image = |image: &crate::stack::Image| {
            let target = &image.target;
            let cuda = match target.cuda {
                Some(release) => release.to_string(),
                None => format!("none: {}", target.cpu_only),
            };
            let gpus: Vec<String> = target.gpus.iter().map(ToString::to_string).collect();
            format!("{} {} {cuda} {}", image.name, target.python(), gpus.join(" "))
        };
        stack.images.iter().map(image).collect()
    }

    #[test]
    fn an_image_is_for_what_it_says_then_what_is_below_it_says_then_the_stack() {
        assert_eq!(
            targets(&Overrides::default()),
            ["a 3.12 none: true sm_80", "b 3.12 none: true sm_90", "c 3.11 12.8 sm_80"]
        );
        let overrides =
            Overrides { variant: Some("new".into()), gpus: Some(vec!["8.6".into()]), ..Overrides::default() };
        assert_eq!(targets(&overrides), ["a 3.12 none: true sm_86", "b 3.12 none: true sm_86", "c 3.11 13.0 sm_86"]);
    }
}
