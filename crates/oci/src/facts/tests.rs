use kiln_plan::base::LibcFamily;
use tar::{Builder, EntryType, Header};

use super::*;

/// A layer that is put together entry by entry.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, size: usize) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o755);
        header
    }

    fn file(mut self, path: &str, content: &str) -> Self {
        let mut header = Self::header(EntryType::Regular, content.len());
        self.0.append_data(&mut header, path, content.as_bytes()).unwrap();
        self
    }

    fn folder(mut self, path: &str) -> Self {
        let mut header = Self::header(EntryType::Directory, 0);
        self.0.append_data(&mut header, path, std::io::empty()).unwrap();
        self
    }

    fn link(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(EntryType::Symlink, 0);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    fn hard_link(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(EntryType::Link, 0);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn facts(layers: impl IntoIterator<Item = Layer>) -> BaseFacts {
    let mut reader = FactsReader::new();
    for layer in layers {
        reader.layer(layer.bytes().as_slice()).unwrap();
    }
    reader.finish()
}

fn interpreters(facts: &BaseFacts) -> Vec<(&str, &str, &str)> {
    facts
        .interpreters
        .iter()
        .map(|found| (found.path.as_str(), found.version.as_str(), found.site_packages.as_deref().unwrap_or("-")))
        .collect()
}

fn distributions(facts: &BaseFacts) -> Vec<(&str, &str, &str, Option<u64>)> {
    facts
        .distributions
        .iter()
        .map(|found| (found.location.as_str(), found.name.as_str(), found.version.as_str(), found.size))
        .collect()
}

const GLIBC: &str = "\x7fELF GNU C Library (Debian GLIBC 2.36-9+deb12u10) stable release version 2.36.\n";

fn debian() -> Layer {
    Layer::new()
        .link("bin", "usr/bin")
        .link("lib", "usr/lib")
        .folder("usr/")
        .link("etc/os-release", "../usr/lib/os-release")
        .file("usr/lib/os-release", "PRETTY_NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n")
        .file("usr/bin/apt-get", "")
        .file("usr/lib/x86_64-linux-gnu/libc.so.6", GLIBC)
        .file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nbroken\nnobody:x:65534:65534::/:/bin/false\n")
        .file("etc/group", "root:x:0:\nstaff:x:50:a,b\n")
}

#[test]
fn scratch_has_no_facts() {
    assert_eq!(FactsReader::new().finish(), BaseFacts::default());
    assert_eq!(facts([Layer::new()]), BaseFacts::default());
}

#[test]
fn a_debian_base_is_told_by_its_files() {
    let facts = facts([debian()]);
    assert_eq!(facts.distribution.as_deref(), Some("debian 12"));
    assert_eq!(facts.libc.as_ref().unwrap().to_string(), "glibc 2.36");
    let ids = |lines: &[String]| -> Vec<String> {
        lines.iter().map(|line| line.split(':').take(3).collect::<Vec<_>>().join(":")).collect()
    };
    assert_eq!(ids(&facts.passwd), ["root:x:0", "broken", "nobody:x:65534"]);
    assert_eq!(ids(&facts.group), ["root:x:0", "staff:x:50"]);
}

#[test]
fn an_alpine_base_has_musl_with_the_version_of_its_package() {
    let facts = facts([Layer::new()
        .file("etc/os-release", "ID=alpine\nVERSION_ID=3.20.3\n")
        .file("lib/ld-musl-x86_64.so.1", "\x7fELF\0musl libc (x86_64)\n")
        .link("lib/libc.musl-x86_64.so.1", "ld-musl-x86_64.so.1")
        .file("lib/apk/db/installed", "C:Q1=\nP:musl\nV:1.2.5-r0\n\nP:python3\nV:3.12.8-r1\n")
        .file("sbin/apk", "")
        .file("usr/bin/python3.12", "")
        .link("usr/bin/python3", "python3.12")]);
    assert_eq!(facts.distribution.as_deref(), Some("alpine 3.20.3"));
    let libc = facts.libc.clone().unwrap();
    assert_eq!((libc.family, libc.version.as_str()), (LibcFamily::Musl, "1.2"));
    assert_eq!(interpreters(&facts), [("/usr/bin/python3.12", "3.12.8", "/usr/lib/python3.12/site-packages")]);
}

#[test]
fn an_old_glibc_is_told_by_the_name_of_its_file() {
    let facts = facts([Layer::new()
        .link("lib/x86_64-linux-gnu/libc.so.6", "libc-2.31.so")
        .file("lib/x86_64-linux-gnu/libc-2.31.so", "stripped of its banner")
        .file("opt/old/lib/libc.so.6", GLIBC)]);
    assert_eq!(facts.libc.unwrap().to_string(), "glibc 2.31");
}

#[test]
fn debians_python_installs_to_usr_local_and_tells_its_version_by_its_package() {
    let status = "Package: libpython3.11-minimal\nStatus: install ok installed\nVersion: 3.11.2-6+deb12u6\n";
    let facts = facts([debian()
        .file("usr/bin/python3.11", "")
        .file("usr/bin/python3.11-config", "")
        .link("usr/bin/python3", "python3.11")
        .file("var/lib/dpkg/status", status)]);
    assert_eq!(interpreters(&facts), [("/usr/bin/python3.11", "3.11.2", "/usr/local/lib/python3.11/dist-packages")]);
}

#[test]
fn a_distroless_base_has_one_status_file_for_each_package() {
    let facts = facts([debian()
        .file("usr/bin/python3.11", "")
        .file("var/lib/dpkg/status.d/python3.11-minimal", "Package: python3.11-minimal\nVersion: 1:3.11.2-6\n")
        .file("var/lib/dpkg/status.d/python3.11-minimal.md5sums", "0 usr/bin/python3.11\n")]);
    assert_eq!(interpreters(&facts)[0].1, "3.11.2");
}

#[test]
fn an_interpreter_with_many_names_is_listed_once() {
    let facts = facts([debian()
        .file("usr/local/bin/python3.12", "")
        .link("usr/local/bin/python3", "python3.12")
        .file("usr/local/include/python3.12/patchlevel.h", "/* */\n#define PY_VERSION      \t\"3.12.4\"\n")
        .link("opt/venv/bin/python", "/usr/local/bin/python3")
        .link("opt/venv/bin/python3.12", "python")
        .file("usr/libexec/platform-python3.6", "")
        .link("usr/bin/python3.6", "../libexec/platform-python3.6")
        .link("usr/bin/python3.7", "gone")]);
    assert_eq!(
        interpreters(&facts),
        [
            ("/usr/local/bin/python3.12", "3.12.4", "/usr/local/lib/python3.12/site-packages"),
            ("/usr/bin/python3.6", "3.6", "/usr/local/lib/python3.6/dist-packages"),
        ]
    );
}

#[test]
fn interpreters_come_in_the_order_in_which_path_finds_them() {
    let base = || {
        debian()
            .file("usr/bin/python3.11", "")
            .file("opt/python/bin/python3.11", "")
            .link("usr/local/bin/python3.11", "/opt/python/bin/python3.11")
    };
    let first = |path: &str| {
        let mut reader = FactsReader::new().with_path(Some(path));
        reader.layer(base().bytes().as_slice()).unwrap();
        reader.finish().interpreters[0].path.clone()
    };
    assert_eq!(first("/usr/local/bin:/usr/bin"), "/opt/python/bin/python3.11", "by the name in /usr/local/bin");
    assert_eq!(first("/bin:/usr/local/bin"), "/usr/bin/python3.11", "/bin is a link");
    assert_eq!(first("/nowhere:/usr/bin/"), "/usr/bin/python3.11");
}

#[test]
fn the_programs_of_path_are_told_with_the_files_of_the_root() {
    let mut reader = FactsReader::new().with_path(Some("/opt/tool/bin:/bin:/opt/empty/bin"));
    let layer = debian()
        .file("usr/bin/sh", "")
        .link("usr/bin/awk", "/etc/alternatives/awk")
        .file("opt/tool/bin/run me", "")
        .file("usr/sbin/init", "")
        .file("entrypoint.sh", "")
        .folder("opt/empty/bin/");
    reader.layer(layer.bytes().as_slice()).unwrap();
    let facts = reader.finish();
    let lines: Vec<String> = facts.programs.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "bin",
            "entrypoint.sh",
            "etc(group os-release passwd)",
            "lib",
            "opt(empty(bin) tool(bin(run%20me)))",
            "usr(bin(apt-get awk sh))"
        ]
    );
}

#[test]
fn distributions_are_told_by_their_metadata_and_sized_by_their_record() {
    let metadata = |name: &str| format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\nName: not this\n");
    let facts = facts([Layer::new()
        .link("opt/venv/lib64", "lib")
        .file("opt/venv/lib64/python3.11/site-packages/Foo_Bar-1.0.dist-info/METADATA", &metadata("Foo_Bar"))
        .file(
            "opt/venv/lib/python3.11/site-packages/Foo_Bar-1.0.dist-info/RECORD",
            "foo/a.py,sha256=x,40\n\"foo/b,c.py\",sha256=x,2\nFoo_Bar-1.0.dist-info/RECORD,,\n",
        )
        .file("usr/lib/python3/dist-packages/six-1.16.0.egg-info", &metadata("six"))
        .file("usr/lib/python3/dist-packages/wheel.egg-info/PKG-INFO", &metadata("wheel"))
        .file("usr/lib/python3/dist-packages/bad.dist-info/METADATA", "Name: no version\n")
        .file("srv/app-1.0.dist-info/METADATA", &metadata("app"))]);
    assert_eq!(
        distributions(&facts),
        [
            ("/opt/venv/lib/python3.11/site-packages", "foo-bar", "1.0", Some(42)),
            ("/usr/lib/python3/dist-packages", "six", "1.0", None),
            ("/usr/lib/python3/dist-packages", "wheel", "1.0", None),
        ]
    );
}

#[test]
fn requirements_of_distributions_are_told_of_eggs_too() {
    let site = "usr/lib/python3/dist-packages";
    let metadata = "Name: a\nVersion: 1\nRequires-Dist: b>=1\nRequires-Dist: c; extra == 'x'\n";
    let facts = facts([Layer::new()
        .file(&format!("{site}/a-1.dist-info/METADATA"), metadata)
        .file(&format!("{site}/egg-2.egg-info/PKG-INFO"), "Name: egg\nVersion: 2\n")
        .file(&format!("{site}/egg-2.egg-info/requires.txt"), "six\n[x:os_name=='posix']\nidna\n")]);
    let requires: Vec<_> = facts.distributions.iter().map(|found| (&found.requires[..], &found.extras[..])).collect();
    assert_eq!(requires[0], (&["b>=1".to_owned()][..], &["c; extra == 'x'".to_owned()][..]));
    let extra = "idna ; (os_name=='posix') and extra == 'x'".to_owned();
    assert_eq!(requires[1], (&["six".to_owned()][..], &[extra][..]));
}

#[test]
fn modules_of_namespaces_are_told_and_packages_that_are_empty() {
    let site = "usr/local/lib/python3.11/site-packages";
    let record = "google/__init__.py,sha256=x,60\ngoogle/protobuf/__init__.py,sha256=x,9\nplain/__init__.py,sha256=x,60\n\
                  plain/inner/__init__.py,sha256=x,9\nnvidia/__init__.py,sha256=x,0\nnvidia/a/__init__.py,sha256=x,0\n";
    let facts = facts([Layer::new()
        .file(&format!("{site}/a-1.dist-info/METADATA"), "Name: a\nVersion: 1\n")
        .file(&format!("{site}/a-1.dist-info/RECORD"), record)
        .file(
            &format!("{site}/google/__init__.py"),
            "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n",
        )
        .file(&format!("{site}/plain/__init__.py"), "from .inner import *\n")]);
    assert_eq!(facts.distributions[0].modules, ["google/protobuf", "plain"]);
    assert_eq!(facts.distributions[0].shared, ["nvidia"]);
}

#[test]
fn interpreters_have_the_names_of_links_that_lead_to_them() {
    let facts = facts([debian()
        .file("usr/bin/python3.11", "")
        .link("usr/bin/python3", "python3.11")
        .link("usr/local/bin/python", "/usr/bin/python3")
        .link("usr/bin/python3-config", "python3.11")
        .file("venv/pyvenv.cfg", "home = /usr/bin\n")
        .link("venv/bin/python3", "/usr/bin/python3.11")
        .link("venv/bin/python3.11", "python3")]);
    let names: Vec<(&str, String)> =
        facts.interpreters.iter().map(|found| (found.path.as_str(), found.names.join(" "))).collect();
    assert_eq!(
        names,
        [
            ("/usr/bin/python3.11", "/usr/bin/python3 /usr/local/bin/python".to_owned()),
            ("/venv/bin/python3.11", "/venv/bin/python3".to_owned()),
        ]
    );
}

#[test]
fn a_layer_on_top_may_write_through_the_links_of_a_merged_usr() {
    let facts =
        facts([debian(), Layer::new().file("bin/python3.11", "").file("lib/os-release", "ID=debian\nVERSION_ID=13\n")]);
    assert_eq!(interpreters(&facts)[0].0, "/usr/bin/python3.11");
    assert_eq!(facts.distribution.as_deref(), Some("debian 13"));
}

#[test]
fn a_later_layer_replaces_and_takes_away() {
    let facts = facts([
        debian()
            .file("usr/bin/python3.11", "")
            .file("opt/a/lib/python3.11/site-packages/a.dist-info/METADATA", "Name: a\nVersion: 1\n")
            .file("opt/b/lib/python3.11/site-packages/b.dist-info/METADATA", "Name: b\nVersion: 1\n"),
        Layer::new()
            .file("usr/bin/.wh.python3.11", "")
            .file("opt/a/lib/python3.11/site-packages/c.dist-info/METADATA", "Name: c\nVersion: 1\n")
            .file("opt/a/.wh..wh..opq", "")
            .file("opt/.wh.b", "")
            .file("etc/.wh.os-release", "")
            .file("usr/lib/.wh.os-release", "")
            .file("etc/group", "wheel:x:10:\n")
            .file("usr/bin/.wh.", "")
            .file("usr/bin/.wh...", ""),
    ]);
    assert!(facts.interpreters.is_empty());
    assert_eq!(distributions(&facts), [("/opt/a/lib/python3.11/site-packages", "c", "1", None)]);
    assert_eq!(facts.distribution, None);
    assert_eq!(facts.group.len(), 1);
}

#[test]
fn a_folder_in_the_place_of_a_link_is_a_folder_of_its_own() {
    let facts =
        facts([debian().file("usr/bin/python3.11", ""), Layer::new().folder("bin/").file("bin/python3.12", "")]);
    let paths: Vec<_> = interpreters(&facts).iter().map(|found| found.0).collect();
    assert_eq!(paths, ["/usr/bin/python3.11", "/bin/python3.12"]);
}

#[test]
fn a_hard_link_is_what_it_links_to() {
    let facts = facts([Layer::new()
        .file("usr/lib/os-release", "ID=debian\n")
        .hard_link("etc/os-release", "usr/lib/os-release")
        .file("opt/bin/interpreter", "")
        .hard_link("opt/bin/python3.11", "opt/bin/interpreter")]);
    assert_eq!(facts.distribution.as_deref(), Some("debian"));
    assert_eq!(interpreters(&facts)[0].0, "/opt/bin/python3.11");
}

#[test]
fn links_without_end_and_paths_out_of_the_root_do_no_harm() {
    let mut header = Layer::header(EntryType::Regular, 0);
    let path = b"../../etc/passwd";
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    let mut layer = Layer::new().link("a", "b").link("b", "a").file("a/bin/python3.11", "");
    layer.0.append(&header, std::io::empty()).unwrap();
    let programs = ["a", "b"].map(|name| name.parse().unwrap()).to_vec();
    assert_eq!(facts([layer]), BaseFacts { programs, ..BaseFacts::default() });
}

#[test]
fn a_link_to_nothing_is_no_line_of_the_lock() {
    let mut header = Layer::header(EntryType::Symlink, 0);
    header.as_old_mut().name[..4].copy_from_slice(b"none");
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    let mut layer = Layer::new().link("bin", "usr/bin").folder("usr/bin/");
    layer.0.append(&header, std::io::empty()).unwrap();
    let links: Vec<String> = facts([layer]).links.iter().map(ToString::to_string).collect();
    assert_eq!(links, ["/bin -> usr/bin"]);
}

#[test]
fn a_truncated_layer_is_an_error_that_says_where() {
    let bytes = debian().bytes();
    let mut reader = FactsReader::new();
    reader.layer(bytes.as_slice()).unwrap();
    let cut = bytes.windows(9).position(|window| window == b"VERSION_I").unwrap();
    let error = reader.layer(&bytes[..cut]).unwrap_err();
    assert_eq!(error.to_string(), "layer 2 cannot be read");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, format!("the archive ends at byte {cut}, inside `usr/lib/os-release`"));
}

proptest::proptest! {
    #[test]
    fn a_damaged_layer_is_an_error_or_other_facts_but_no_panic(
        damage in proptest::collection::vec((0_usize..16_384, proptest::num::u8::ANY), 1..8),
        length in 0_usize..16_384,
    ) {
        let mut bytes = debian().hard_link("a", "etc/passwd").file("etc/ld.so.conf", "include *\n").bytes();
        for (at, value) in damage {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        // With sums that fit, so that what is wrong is found where it is and not by the sum.
        for header in bytes.chunks_exact_mut(512).filter(|block| block[257..].starts_with(b"ustar")) {
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
        bytes.truncate(length);
        let mut reader = FactsReader::new();
        let _ = reader.layer(bytes.as_slice());
        let _ = reader.layer(bytes.as_slice());
        reader.finish();
        let _ = crate::debian::normalise(&mut [std::io::Cursor::new(bytes)], std::io::sink(), 7);
    }
}
