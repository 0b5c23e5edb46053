//! Bases for tests: little OCI layouts that hold just what facts are read from.

#![allow(clippy::unwrap_used, reason = "test support: a panic is a failed test")]

use std::io::Write;
use std::path::Path;

use crate::image::{CONFIG, Config, Descriptor, INDEX, Index, MANIFEST, Manifest, PlatformObject, to_json};
use crate::layer::{Layer, MediaType};
use crate::layout::Layout;
use kiln_plan::digest::Digest;
use kiln_plan::platform::{Cpu, Platform};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nstaff:x:50:\nnogroup:x:65534:\n";

/// A base for both platforms that looks like a Debian 12 with Python 3.11.
pub fn debian(directory: &Path) {
    layout(directory, &|platform| debian_files(platform, &[("usr/bin/python3.11", b"python".to_vec())]));
}

/// The same with more files.
pub fn debian_with(directory: &Path, more: &[(&str, Vec<u8>)]) {
    let python = ("usr/bin/python3.11", b"python".to_vec());
    let files: Vec<_> = std::iter::once(python).chain(more.iter().cloned()).collect();
    layout(directory, &|platform| debian_files(platform, &files));
}

/// The same for linux/amd64 alone.
pub fn for_one_platform(directory: &Path) {
    debian(directory);
    let mut index = Layout::open(directory).unwrap().index().unwrap();
    let inner = index.manifests.pop().unwrap();
    let bytes = fs_err::read(directory.join("blobs/sha256").join(inner.digest.hex())).unwrap();
    let mut inner: Index = serde_json::from_slice(&bytes).unwrap();
    inner.manifests.retain(|entry| entry.platform.as_ref().unwrap().architecture == "amd64");
    fs_err::write(directory.join("index.json"), to_json(&inner).unwrap()).unwrap();
}

/// The same without any Python.
pub fn without_python(directory: &Path) {
    layout(directory, &|platform| debian_files(platform, &[]));
}

/// A base as python.org's images are: Python 3.11 below `/usr/local`, with these distributions in it.
pub fn with_site_packages(directory: &Path, distributions: &[(&str, &str)]) {
    layout(directory, &|platform| {
        let site = "usr/local/lib/python3.11/site-packages";
        let mut files = vec![("usr/local/bin/python3.11".to_owned(), b"python".to_vec())];
        files.push(("usr/local/lib/python3.11/os.py".to_owned(), Vec::new()));
        for (name, version) in distributions {
            let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
            files.push((format!("{site}/{name}-{version}.dist-info/METADATA"), metadata.into_bytes()));
        }
        let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.clone())).collect();
        debian_files(platform, &files)
    });
}

/// A base as python.org's images are, with these files in its site directory, by their paths below it.
pub fn with_files_in_site_packages(directory: &Path, files: &[(String, String)]) {
    layout(directory, &|platform| {
        let mut all = vec![("usr/local/bin/python3.11".to_owned(), b"python".to_vec())];
        all.push(("usr/local/lib/python3.11/os.py".to_owned(), Vec::new()));
        let place = |path: &str| match path.strip_prefix("../../../") {
            Some(above) => format!("usr/local/{above}"),
            None => format!("usr/local/lib/python3.11/site-packages/{path}"),
        };
        all.extend(files.iter().map(|(path, text)| (place(path), text.clone().into_bytes())));
        let all: Vec<(&str, Vec<u8>)> = all.iter().map(|(path, bytes)| (path.as_str(), bytes.clone())).collect();
        debian_files(platform, &all)
    });
}

/// Writes a base whose configs say that its layers have this diff id.
pub fn with_other_diff_ids(directory: &Path, diff_id: &Digest) {
    fs_err::remove_dir_all(directory).unwrap();
    layout_with(directory, &|platform| debian_files(platform, &[]), 0, &|config| {
        config.rootfs.diff_ids = vec![*diff_id]
    });
}

/// Writes a base with so many further layers, and with a configuration that is changed.
pub fn changed(directory: &Path, layers: usize, change: &dyn Fn(&mut Config)) {
    fs_err::remove_dir_all(directory).unwrap();
    let python = ("usr/bin/python3.11", b"python".to_vec());
    layout_with(directory, &|platform| debian_files(platform, std::slice::from_ref(&python)), layers, change);
}

/// Deletes the bytes of all layers, so that only what is declared or locked is known of the base.
pub fn delete_layers(directory: &Path) {
    for entry in fs_err::read_dir(directory.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        if fs_err::read(&path).unwrap().starts_with(&[0x1f, 0x8b]) {
            fs_err::remove_file(path).unwrap();
        }
    }
}

fn debian_files(platform: Platform, more: &[(&str, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let libc = format!("lib/{}-linux-gnu/libc.so.6", platform.cpu.machine());
    let banner = "\x7fELF GNU C Library (Debian GLIBC 2.36-9+deb12u10) stable release version 2.36.\n";
    let mut files = vec![
        ("etc/os-release".to_owned(), b"ID=debian\nVERSION_ID=\"12\"\n".to_vec()),
        ("etc/passwd".to_owned(), PASSWD.as_bytes().to_vec()),
        ("etc/group".to_owned(), GROUP.as_bytes().to_vec()),
        (libc, banner.as_bytes().to_vec()),
    ];
    files.extend(more.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())));
    files
}

type Files = Vec<(String, Vec<u8>)>;

fn layout(directory: &Path, files: &dyn Fn(Platform) -> Files) {
    layout_with(directory, files, 0, &|_| ());
}

fn layout_with(directory: &Path, files: &dyn Fn(Platform) -> Files, more: usize, change: &dyn Fn(&mut Config)) {
    fs_err::create_dir_all(directory.join("blobs/sha256")).unwrap();
    let add = |bytes: &[u8]| {
        fs_err::write(directory.join("blobs/sha256").join(Digest::of(bytes).hex()), bytes).unwrap();
    };
    let mut manifests = Vec::new();
    for cpu in [Cpu::Amd64, Cpu::Arm64] {
        let platform = Platform { cpu };
        let mut config = Config::scratch(platform);
        config.set_env("PATH", "/usr/local/bin:/usr/bin:/bin");
        let further = (0..more).map(|at| vec![(format!("srv/{at}"), at.to_string().into_bytes())]);
        let layers: Vec<Layer> = std::iter::once(files(platform))
            .chain(further)
            .map(|files| {
                let tar = tar(&files);
                // Stored, so that no digest or size depends on the version of a compressor.
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
                gzip.write_all(&tar).unwrap();
                let blob = gzip.finish().unwrap();
                add(&blob);
                let (diff_id, size) = (Digest::of(&tar), blob.len() as u64);
                config.rootfs.diff_ids.push(diff_id);
                Layer { media_type: MediaType::Gzip, digest: Digest::of(&blob), diff_id, size, urls: Vec::new() }
            })
            .collect();
        change(&mut config);
        let config = to_json(&config).unwrap();
        add(&config);
        let manifest = to_json(&Manifest::new(Descriptor::of(CONFIG, &config), &layers)).unwrap();
        add(&manifest);
        let mut entry = Descriptor::of(MANIFEST, &manifest);
        entry.platform = Some(PlatformObject::new(platform));
        manifests.push(entry);
    }
    let index = to_json(&Index::new(manifests)).unwrap();
    add(&index);
    let top = Index::new(vec![Descriptor::of(INDEX, &index)]);
    fs_err::write(directory.join("index.json"), to_json(&top).unwrap()).unwrap();
    fs_err::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// A layer for tests that make their documents themselves.
#[derive(Debug)]
pub struct LittleLayer {
    /// Its bytes, in gzip.
    pub bytes: Vec<u8>,
    /// The digest of its tar.
    pub diff_id: Digest,
}

/// Makes a layer with one file of this content.
pub fn little_layer(content: &str) -> LittleLayer {
    let tar = tar(&[("file".to_owned(), content.as_bytes().to_vec())]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(&tar).unwrap();
    LittleLayer { bytes: gzip.finish().unwrap(), diff_id: Digest::of(&tar) }
}

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_mode(if path.contains("/bin/") { 0o755 } else { 0o644 });
        tar.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}
