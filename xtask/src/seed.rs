//! `cargo xtask seed`: the inputs that fuzzing begins with, in `fuzz/corpus/TARGET`: small, valid, and each different in kind.

use std::io::{self, Write};
use std::path::Path;

use clap::Args;
use kiln_debian::testing as debian;
use kiln_fatbin::testing::{Library, entry, region};
use kiln_wheel::testing::{WheelBuilder, ZipBuilder};
use tar::{Builder, EntryType, Header};

use crate::sources;

/// Write the inputs that fuzzing begins with: `fuzz/corpus`
#[derive(Debug, Args)]
pub(crate) struct Seed;

impl Seed {
    pub(crate) fn run(&self) -> Result<(), String> {
        write(&sources::root().join("fuzz")).map_err(|error| error.to_string())
    }
}

fn write(root: &Path) -> io::Result<()> {
    let mut seeds = wheels();
    seeds.extend(layers()?);
    seeds.extend(texts(root)?);
    seeds.extend(manifests());
    seeds.extend(regions());
    seeds.extend(libraries());
    seeds.extend(streams()?);
    seeds.extend(archives());
    seeds.push(("paths", "list", br#"[["opt/venv/bin/a",7,3405691582],["opt/venv/b",0,0]]"#.to_vec()));
    for (target, name, bytes) in seeds {
        let folder = root.join("corpus").join(target);
        fs_err::create_dir_all(&folder)?;
        fs_err::write(folder.join(name), bytes)?;
    }
    documents(root)?;
    compiled(root)
}

/// Returns packages of Debian and lists of them.
fn archives() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let control = "Package: tool\nVersion: 1:2.0~rc1-3+b1\nArchitecture: amd64\nMulti-Arch: same\nDepends: libc6 (>= 2.36), a | b\n";
    let about: [debian::PackageFile<'_>; 3] = [
        ("./control", 0o644, control.as_bytes()),
        ("./conffiles", 0o644, b"/etc/tool.conf\n"),
        ("./triggers", 0o644, b"interest-noawait /usr/share/tool\n"),
    ];
    let files: [debian::PackageFile<'_>; 3] = [
        ("./bin/tool", 0o755, b"program"),
        ("./etc/tool.conf", 0o644, b"a=1\n"),
        ("./lib/link -> ../bin/tool", 0o777, b""),
    ];
    let more = "Priority: required\nProvides: x (= 1)\nConflicts: y (<< 2)\nFilename: pool/t.deb\nSize: 3\n";
    let list = format!("{control}{more}SHA256: {}\n", "0".repeat(64));
    let sums = format!("SHA256:\n {} 3 main/binary-amd64/Packages\n", "0".repeat(64));
    let release = format!("Suite: stable\nCodename: bookworm\nDate: Sat, 06 Sep 2025 10:19:12 UTC\n{sums}");
    let signed = debian::Signer::new(1_000_000_000).sign(&release, 1_700_000_000);
    let sources = "deb [arch=amd64] http://a.example/debian bookworm main\n\nTypes: deb\nURIs: http://b.example\nSuites: x\nComponents: main\n";
    vec![
        ("deb", "deb", debian::deb(&about, &files)),
        ("archive", "packages", list.into_bytes()),
        ("archive", "release", release.into_bytes()),
        ("archive", "signed", signed.into_bytes()),
        ("archive", "sources", sources.as_bytes().to_vec()),
        ("archive", "versions", b"1:2.0~rc1-3\n1:2.0-3+b1\n2.36-9+deb12u10\n".to_vec()),
    ]
}

/// Writes a document and a config of each image that others made.
fn documents(root: &Path) -> io::Result<()> {
    let table = fs_err::read_to_string(root.join("../crates/registry/src/tests/of-others.jsonl"))?;
    for line in table.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let documents = line["documents"].as_array().into_iter().flatten().filter_map(|document| document.as_str());
        let lines: Vec<String> = documents.map(|document| document.replace('\n', " ")).collect();
        let name = line["image"].as_str().unwrap_or_default();
        fs_err::write(root.join("corpus/manifest").join(name), lines.join("\n"))?;
    }
    Ok(())
}

/// Copies the folder `seeds`: texts, and what `seeds/make.sh` compiled; shared objects go to all targets that read them.
fn compiled(root: &Path) -> io::Result<()> {
    let texts = ["challenge", "credentials", "facts", "history", "lock", "project", "pylock", "record", "uv"];
    let texts = texts.each_ref().map(|text| (*text, std::slice::from_ref(text)));
    for (from, targets) in
        [("fatbin", &["fatbin"][..]), ("prune", &["fatbin", "prune", "link"])].into_iter().chain(texts)
    {
        for file in fs_err::read_dir(root.join("seeds").join(from))? {
            let file = file?;
            for target in targets {
                fs_err::create_dir_all(root.join("corpus").join(target))?;
                fs_err::copy(file.path(), root.join("corpus").join(target).join(file.file_name()))?;
            }
        }
    }
    Ok(())
}

/// Shared objects with wrappers, relocations and symbols.
fn libraries() -> Vec<Input> {
    let code = [entry(2, 80, 0, 6000), entry(2, 90, 0x10_8000, 6000), entry(1, 100, 0, 6000), entry(8, 90, 0, 64)];
    let small = Library::new().region(&code).region(&code[..2]);
    vec![
        ("prune", "small", small.finish()),
        ("prune", "room", small.clone().room().symbol(0, 0).finish()),
        ("prune", "packed", small.clone().packed().pointer(1, 0).finish()),
        ("prune", "bare", small.clone().without_wrapper(0).relocatable(&code).finish()),
        ("prune", "hashed", small.clone().hashed().finish()),
        ("prune", "object", Library::new().region(&code).object().finish()),
        ("prune", "aarch64", small.aarch64().region(&[entry(2, 80, 0, 40_000)]).finish()),
        ("link", "small", Library::new().region(&code).finish()),
    ]
}

/// Places at which content is cut, and streams of several blocks: stored, in the fixed code, in codes of their own.
fn streams() -> io::Result<Vec<Input>> {
    let noise = |at: usize| (at as u32).wrapping_mul(0x9e37_79b9).rotate_left(at as u32 % 32) as u8;
    let content: Vec<u8> = (0..200_000)
        .map(|at| match at / 30_000 % 3 {
            0 => noise(at) & 0x1f,
            1 => noise(at),
            _ => b"kiln"[at % 4],
        })
        .collect();
    let mut seeds = Vec::new();
    for (name, level, size) in [("fast", 1, 200_000), ("best", 9, 200_000), ("stored", 0, 60_000), ("fixed", 9, 20)] {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(level));
        for part in content[..size].chunks(50_000) {
            encoder.write_all(part)?;
            encoder.flush()?;
        }
        let stream = encoder.finish()?;
        let sizes = [10_000u16, 50_000].map(u16::to_le_bytes).concat();
        seeds.push(("inflate", name, [sizes, stream.clone()].concat()));
        let cuts = [0u16, 30_000, 31_000, 65_000].map(u16::to_le_bytes).concat();
        seeds.push(("repack", name, [cuts, stream].concat()));
    }
    Ok(seeds)
}

/// Regions alone, in a shared object, and in a static library.
fn regions() -> Vec<Input> {
    let region = region(&[entry(2, 90, 0x10_8000, 16), entry(1, 80, 0, 16), entry(0x100, 120, 0x20_8000, 16)]);
    let names = b"\0.nv_fatbin\0.rodata\0.shstrtab\0";
    let mut object = vec![0u8; 64];
    object[..6].copy_from_slice(b"\x7fELF\x02\x01");
    object[18..20].copy_from_slice(&62u16.to_le_bytes());
    let mut headers = vec![vec![0u8; 64]];
    let rodata = [region.clone(), vec![0; 4096]].concat();
    for (name, kind, content) in [(1u32, 1u32, region.as_slice()), (12, 1, &rodata), (20, 3, names)] {
        let mut header = vec![0u8; 64];
        header[0..4].copy_from_slice(&name.to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[24..32].copy_from_slice(&(object.len() as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
        object.extend(content);
        object.resize(object.len().next_multiple_of(8), 0);
        headers.push(header);
    }
    let at = object.len() as u64;
    object[40..48].copy_from_slice(&at.to_le_bytes());
    object[58..60].copy_from_slice(&64u16.to_le_bytes());
    object[60..62].copy_from_slice(&4u16.to_le_bytes());
    object[62..64].copy_from_slice(&3u16.to_le_bytes());
    object.extend(headers.concat());
    let mut library = b"!<arch>\n".to_vec();
    library.extend(format!("{:<48}{:<10}`\n", "a.o/", object.len()).bytes());
    library.extend(&object);
    vec![("fatbin", "regions", region), ("fatbin", "object", object), ("fatbin", "library", library)]
}

/// Manifest and config of an image of one layer, in OCI's words and in Docker's, and references.
fn manifests() -> Vec<Input> {
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let image = |manifest: &str, config: &str, layer: &str| {
        format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{manifest}\",\"config\":{{\"mediaType\":\"{config}\",\"digest\":\"{digest}\",\
             \"size\":2}},\"layers\":[{{\"mediaType\":\"{layer}\",\"digest\":\"{digest}\",\"size\":0,\"urls\":[\"x:y\"]}}]}}\n\
             {{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{\"Env\":null}},\"history\":null,\"rootfs\":{{\"type\":\"layers\",\
             \"diff_ids\":[\"{digest}\"]}}}}"
        )
        .into_bytes()
    };
    let oci = ["manifest.v1+json", "config.v1+json", "layer.v1.tar+gzip"]
        .map(|kind| format!("application/vnd.oci.image.{kind}"));
    let docker = [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ];
    vec![
        ("manifest", "oci", image(&oci[0], &oci[1], &oci[2])),
        ("manifest", "docker", image(docker[0], docker[1], docker[2])),
        ("manifest", "reference", format!("localhost:5000/a/b__c:tag@{digest}").into_bytes()),
    ]
}

type Input = (&'static str, &'static str, Vec<u8>);

const FILES: &str = "\
--- demo-1.0.dist-info/WHEEL
Wheel-Version: 1.0
--- demo-1.0.dist-info/METADATA
Metadata-Version: 2.1
Name: demo
Version: 1.0
Requires-Dist: six>=1 ; python_version > '3'
--- demo-1.0.dist-info/entry_points.txt
[console_scripts]
demo = demo.cli:main [extra]
[gui_scripts]
window = demo:Window.open
--- demo-1.0.dist-info/RECORD
demo/__init__.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0
demo-1.0.data/scripts/run,,
\"demo/a,b\",,
demo-1.0.dist-info/RECORD,,
--- demo/__init__.py
--- demo/a,b
x
--- demo-1.0.data/scripts/run
#!python -E
print()
--- demo-1.0.data/data/share/demo
x
--- demo-1.0.data/headers/demo.h
x
--- demo-1.0.data/platlib/demo/native.so
x
";

fn wheels() -> Vec<Input> {
    let small = WheelBuilder::new("demo", "1.0").file("demo/__init__.py", "");
    let full = small
        .clone()
        .requires("six>=1")
        .file_with("demo/stored", true, false, [7; 100])
        .file("demo/zeros", [0; 5000])
        .file("demo-1.0.dist-info/entry_points.txt", "[console_scripts]\ndemo = demo:main\n")
        .file("demo-1.0.data/scripts/run", "#!python\n")
        .file("demo-1.0.data/data/share/demo", "x");
    let strange = ZipBuilder::new().stored("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n").stored("a/", "");
    vec![
        ("wheel", "small", small.finish()),
        ("wheel", "full", full.finish()),
        ("wheel", "descriptors", strange.clone().with_flags(8).finish()),
        ("wheel", "methods", strange.with_method(93).finish()),
        ("wheel", "files", FILES.into()),
    ]
}

fn layers() -> io::Result<Vec<Input>> {
    let base = tar(&[
        ("./", EntryType::Directory, ""),
        ("bin", EntryType::Symlink, "usr/bin"),
        ("etc/passwd", EntryType::Regular, "root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", EntryType::Regular, "root:x:0:\n"),
        ("etc/shadow", EntryType::Regular, "root:*:19000:0:99999:7:::\n"),
        ("etc/machine-id", EntryType::Regular, "0\n"),
        ("etc/ld.so.conf", EntryType::Regular, "include /etc/ld.so.conf.d/*.conf\n"),
        ("etc/ld.so.conf.d/a.conf", EntryType::Regular, "/usr/local/lib\n"),
        ("etc/os-release", EntryType::Regular, "ID=debian\nVERSION_ID=\"12\"\n"),
        ("etc/apt/sources.list", EntryType::Regular, "deb [signed-by=/k arch=amd64] http://mirror/debian x main\n"),
        ("usr/share/keyrings/debian-archive-keyring.gpg", EntryType::Regular, "x"),
        ("usr/bin/python3", EntryType::Symlink, "python3.11"),
        ("usr/bin/python3.11", EntryType::Regular, "x"),
        ("usr/bin/python", EntryType::Link, "usr/bin/python3.11"),
        ("dev/null", EntryType::Char, ""),
    ])?;
    let python = tar(&[
        ("usr/lib/python3/dist-packages/a-1.dist-info/METADATA", EntryType::Regular, "Name: a\nVersion: 1\n\nx\n"),
        ("usr/lib/python3/dist-packages/a-1.dist-info/RECORD", EntryType::Regular, "a.py,sha256=x,12\nb,,\n"),
        ("usr/lib/python3/dist-packages/b-1.egg-info", EntryType::Regular, "Name: b\nVersion: 2\n"),
        ("usr/include/python3.11/patchlevel.h", EntryType::Regular, "#define PY_VERSION \"3.11.2\"\n"),
        ("usr/local/bin/python3.12", EntryType::Regular, "x"),
        (
            "lib/x86_64-linux-gnu/libc.so.6",
            EntryType::Regular,
            "GNU C Library (GLIBC 2.36) stable release version 2.36.",
        ),
        ("lib/ld-musl-x86_64.so.1", EntryType::Regular, "musl libc\x001.2.4\0"),
        ("lib/apk/db/installed", EntryType::Regular, "P:musl\nV:1.2.4-r2\n\nP:python3\nV:3.12.1-r0\n\n"),
        (
            "var/lib/dpkg/status",
            EntryType::Regular,
            "Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\n\n",
        ),
        ("a/__pycache__/b.pyc", EntryType::Regular, "\u{6f}\u{d}\r\n\0\0\0\0timesize"),
    ])?;
    let long = "d/".repeat(120);
    let upper = tar(&[
        ("etc/.wh.passwd", EntryType::Regular, ""),
        ("usr/lib/.wh..wh..opq", EntryType::Regular, ""),
        ("bin/python3", EntryType::Regular, "x"),
        (&long, EntryType::Directory, ""),
        ("loop", EntryType::Symlink, "loop"),
        ("up", EntryType::Symlink, "../../../etc"),
        ("up/passwd", EntryType::Regular, "a:x:1:1::/:/bin/sh\n"),
    ])?;
    let members = [gzip(&upper[..512])?, gzip(&upper[512..])?].concat();
    Ok(vec![
        ("layer", "base-gzip", gzip(&base)?),
        ("layer", "base-zstd", zstd::encode_all(base.as_slice(), 3)?),
        ("layer", "base", base),
        ("layer", "python", python),
        ("layer", "upper", upper),
        ("layer", "upper-members", members),
        ("layer", "pax", pax()?),
    ])
}

fn tar(members: &[(&str, EntryType, &str)]) -> io::Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (path, kind, content) in members {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        match kind {
            EntryType::Symlink | EntryType::Link => builder.append_link(&mut header, path, content)?,
            _ => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, content.as_bytes())?;
            }
        }
    }
    builder.into_inner()
}

fn pax() -> io::Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    builder.append_pax_extensions([
        ("path", b"etc/group".as_slice()),
        ("size", b"10"),
        ("uid", b"4000000000"),
        ("SCHILY.xattr.user.a", b"\0x"),
    ])?;
    let mut header = Header::new_ustar();
    header.set_size(10);
    header.set_cksum();
    builder.append(&header, b"root:x:0:\n".as_slice())?;
    builder.into_inner()
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn texts(root: &Path) -> io::Result<Vec<Input>> {
    let example = fs_err::read(root.join("../examples/torch/kiln.toml"))?;
    Ok(vec![
        ("stack", "example", example),
        ("stack", "stack", STACK.into()),
        (
            "ignore",
            "names",
            "\u{FEFF}# out\n*.log\n!keep/*.log\r\n/a/**/b[!c-d]\\ \n\nx.log\nkeep/x.log\na/x/be ".into(),
        ),
        ("requirements", "names", NAMES.into()),
        ("requirements", "wheels", WHEELS.into()),
    ])
}

const NAMES: &str = r#"# -*- coding: latin-1 -*-
--index-url https://example.org/simple --pre
-f ./wheels
a_b[x, y]>=1.0,<2 ; python_version >= "3.8" and sys_platform == 'linux'  # a comment
c===1.0 \
    --hash=sha256:0000000000000000000000000000000000000000000000000000000000000000
"#;

const WHEELS: &str = r#"-r x/s.txt
--require-hashes
./w/a-1-py3-none-any.whl[x] ; python_version < '4'
b @ file:w/b-1%2Bcu130-py3-none-any.whl
https://example.org/c-1-py3-none-any.whl#sha256=0000000000000000000000000000000000000000000000000000000000000000
"#;

const STACK: &str = r#"
[stack]
name = "s"
registry = "localhost:5000/a"
tags = ["latest", "${v}"]
[vars]
v = "1"
[target]
platforms = ["linux/amd64", "linux/arm64"]
python = "3.11"
cuda = "13.0"
gpus = ["L4", "9.0a", "8.0+PTX"]
[index]
default = "https://index/simple"
extra = ["https://extra/simple"]
find-links = ["wheels"]
packages = { six = "https://six/simple" }
[groups]
g = ["six==${v}", "a[b]>=1 ; sys_platform == 'linux'"]
[images.base]
from = { debian = "bookworm", include = ["python3"], mirror = "http://mirror/debian" }
timezone = "Asia/Seoul"
user = { name = "u", uid = 1000, gid = 1000 }
[images.top]
from = "base"
packages = ["@g"]
copy = [{ from = "a", to = "/a/", exclude = ["*.pyc"], owner = "u", mode = "0640" }]
env = { A = "${v}" }
workdir = "/a"
entrypoint = ["python"]
command = ["-c", "1"]
labels = { l = "1" }
persist = true
compression = "zstd"
max-layer-size = "2GiB"
[images.other]
from = { oci = "layout" }
base-facts = { libc = { family = "glibc", version = "2.36" } }
python = { environment = "base" }
requirements = "requirements.txt"
user = "1000:1000"
"#;
