//! Splicing is an optimisation and nothing else: the layer holds what unzipping the wheels would have written.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod spliced;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use kiln_oci::time::OLDEST;
use kiln_oci::{AtHand, Source};
use kiln_plan::digest::Digest;
use kiln_store::Segment;
use kiln_wheel::archive::Method;
use kiln_wheel::install::{Content, InstalledFile};
use kiln_wheel::testing::WheelBuilder;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use spliced::{Workshop, installed, members, noise, read, scheme};
use tar::EntryType;

/// Below this many bytes of content an entry is compressed anew.
const SHARED_BELOW: u64 = 16 << 10;

/// One file of a wheel; `content` is made of what is drawn, so that a failure is short to print.
#[derive(Debug, Clone)]
struct File {
    place: &'static str,
    directories: Vec<String>,
    name: String,
    size: usize,
    kind: Kind,
    executable: bool,
    deflate: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Noise,
    Text,
    Zeros,
    Script,
}

/// A wheel: its files and the names of its entry points.
#[derive(Debug, Clone)]
struct Drawn {
    files: Vec<File>,
    commands: BTreeSet<String>,
    unverified: bool,
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z]{1,8}", 1 => "[a-z_]{95,105}", 1 => "[a-z]{180,220}", 2 => "[äöü한글日🔥 +,\"]{1,40}"]
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => prop::sample::select(vec![0, 1, 511, 512, 513, 16_383, 16_384, 16_385]),
        4 => 0..2_000_usize,
        2 => 10_000..40_000_usize,
        1 => 40_000..300_000_usize,
    ]
}

fn file() -> impl Strategy<Value = File> {
    let place = prop::sample::select(vec!["", "", "", "purelib", "platlib", "scripts", "data", "headers"]);
    let kind = prop::sample::select(vec![Kind::Noise, Kind::Text, Kind::Zeros, Kind::Script]);
    let directories = prop::collection::vec(name(), 0..4);
    (place, directories, name(), size(), kind, any::<bool>(), any::<bool>()).prop_map(
        |(place, directories, name, size, kind, executable, deflate)| File {
            place,
            // uv refuses directories of scripts, and so does kiln.
            directories: if place == "scripts" { Vec::new() } else { directories },
            name,
            size,
            kind,
            executable,
            deflate,
        },
    )
}

fn wheel() -> impl Strategy<Value = Drawn> {
    let files = prop::collection::vec(file(), 0..10);
    (files, prop::collection::btree_set("[a-z]{1,8}", 0..3), any::<bool>())
        .prop_map(|(files, commands, unverified)| Drawn { files, commands, unverified })
}

impl File {
    fn content(&self, seed: u64) -> Vec<u8> {
        match self.kind {
            Kind::Noise => noise(seed, self.size),
            Kind::Text => b"the same line again\n".iter().copied().cycle().take(self.size).collect(),
            Kind::Zeros => vec![0; self.size],
            Kind::Script => [b"#!python -E\n", noise(seed, self.size).as_slice()].concat(),
        }
    }
}

impl Drawn {
    /// The wheel, and its files by path. A number in each file's name keeps it from being a directory's or another's.
    fn build(&self, which: usize) -> (WheelBuilder, BTreeMap<String, Vec<u8>>) {
        let (mut builder, mut files) = (WheelBuilder::new(&format!("demo{which}"), "1.0"), BTreeMap::new());
        for (at, file) in self.files.iter().enumerate() {
            let start = match file.place {
                "" => String::new(),
                place => format!("demo{which}-1.0.data/{place}/"),
            };
            let directories: String = file.directories.iter().map(|directory| format!("{directory}/")).collect();
            let path = format!("{start}{directories}{}.{which}.{at}", file.name);
            let content = file.content(at as u64);
            builder = builder.file_with(&path, file.executable, file.deflate, &content);
            files.insert(path, content);
        }
        if !self.commands.is_empty() {
            let points: String =
                self.commands.iter().map(|command| format!("{command}.{which} = a.b:{command}\n")).collect();
            let (path, content) =
                (format!("demo{which}-1.0.dist-info/entry_points.txt"), format!("[console_scripts]\n{points}"));
            builder = builder.file(&path, &content);
            files.insert(path, content.into_bytes());
        }
        (builder, files)
    }
}

/// A member of a tar.
#[derive(PartialEq, Eq)]
struct Member {
    path: String,
    directory: bool,
    mode: u32,
    content: Vec<u8>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, directory, mode, content } = self;
        write!(f, "{path} directory={directory} {mode:o} {} bytes {}", content.len(), Digest::of(content).short())
    }
}

/// What unzipping and installing one file after the other would have written.
fn model(wheels: &[Vec<InstalledFile>], contents: &[BTreeMap<String, Vec<u8>>]) -> Vec<Member> {
    let (mut seen, mut expected) = (BTreeSet::new(), Vec::new());
    for (files, contents) in wheels.iter().zip(contents) {
        for file in files {
            let parents = file.path.match_indices('/').map(|(slash, _)| &file.path[..slash]);
            for parent in parents.filter(|parent| *parent != "opt") {
                if seen.insert(parent) {
                    let path = format!("{parent}/");
                    expected.push(Member { path, directory: true, mode: 0o755, content: Vec::new() });
                }
            }
            assert!(seen.insert(&file.path), "{} is there twice", file.path);
            let content = match &file.content {
                Content::Bytes(bytes) => bytes.clone(),
                Content::Entry(entry) => contents[&entry.path].clone(),
            };
            let mode = if file.executable { 0o755 } else { 0o644 };
            expected.push(Member { path: file.path.clone(), directory: false, mode, content });
        }
    }
    expected
}

fn untar(tar: &[u8]) -> Vec<Member> {
    let mut found = Vec::new();
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, OLDEST));
        assert!(matches!(header.entry_type(), EntryType::Directory | EntryType::Regular));
        let (directory, mode) = (header.entry_type().is_dir(), header.mode().unwrap());
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        found.push(Member { path, directory, mode, content });
    }
    found
}

/// The metadata that the builder adds by itself, which is known from what it says and not from the wheel.
fn metadata(which: usize) -> [(String, Vec<u8>); 2] {
    let wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let metadata = format!("Metadata-Version: 2.1\nName: demo{which}\nVersion: 1.0\n");
    [("WHEEL", wheel.to_owned()), ("METADATA", metadata)]
        .map(|(file, text)| (format!("demo{which}-1.0.dist-info/{file}"), text.into_bytes()))
}

fn check(workshop: &Workshop, other: &Workshop, drawn: &[Drawn]) {
    let (mut sources, mut wheels, mut contents) = (Vec::new(), Vec::new(), Vec::new());
    for (which, wheel) in drawn.iter().enumerate() {
        let (builder, mut files) = wheel.build(which);
        files.extend(metadata(which));
        let mut source = workshop.source(builder.file_name(), &builder.finish());
        source.unverified = wheel.unverified;
        wheels.push(installed(&source).unwrap());
        sources.push(source);
        contents.push(files);
    }
    let members = members(&wheels);
    let layer = workshop.splice(&sources, members.clone()).unwrap();
    let blob = read(&workshop.store, &layer);
    let mut tar = Vec::new();
    MultiGzDecoder::new(blob.as_slice()).read_to_end(&mut tar).unwrap();
    assert_eq!(Digest::of(&tar), layer.diff_id);
    assert_eq!(untar(&tar), model(&wheels, &contents));

    // Large deflated files are the wheels' own bytes, and nothing else is.
    let ranges: Vec<Segment> = workshop.store.recipe(&layer.digest).unwrap().segments;
    let ranges: Vec<_> = ranges.into_iter().filter(|segment| matches!(segment, Segment::Range(..))).collect();
    let large = wheels.iter().enumerate().flat_map(|(place, files)| {
        files.iter().filter_map(move |file| match &file.content {
            Content::Entry(entry) if entry.method == Method::Deflated && entry.size >= SHARED_BELOW => {
                Some(Segment::Range(place, entry.offset, entry.compressed))
            }
            _ => None,
        })
    });
    assert_eq!(ranges, large.collect::<Vec<_>>());

    for source in &mut sources {
        source.unverified = !source.unverified;
    }
    assert_eq!(other.splice(&sources, members).unwrap(), layer);
}

#[test]
fn a_spliced_layer_holds_what_unzipping_its_wheels_would_write() {
    // Stores and threads are made once; a case writes hundreds of kilobytes.
    let (workshop, other) = (Workshop::new(2), Workshop::new(1));
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    let wheels = prop::collection::vec(wheel(), 1..4);
    TestRunner::new(config)
        .run(&wheels, |wheels| {
            check(&workshop, &other, &wheels);
            Ok(())
        })
        .unwrap();
}

#[test]
fn nothing_but_the_folder_above_the_environment_is_taken_to_exist() {
    assert!(scheme().exists("opt") && !scheme().exists("opt/venv"));
}

#[test]
fn content_that_is_at_hand_is_not_inflated_and_gives_the_same_layer() {
    let workshop = Workshop::new(2);
    let content = noise(1, 300_000);
    let wheel = WheelBuilder::new("demo", "1.0").file("demo/large.so", &content).file("demo/small.py", "x");
    let source = workshop.source(wheel.file_name(), &wheel.finish());
    let files = members(&[installed(&source).unwrap()]);
    let layer = |content: Option<Vec<u8>>| {
        let content = content.map(|content| ("demo/large.so".to_owned(), Arc::new(content) as Arc<_>));
        let source = Source { at_hand: AtHand(content.into_iter().collect()), ..source.clone() };
        workshop.splice(&[source], files.clone()).unwrap()
    };
    let inflated = layer(None);
    assert_eq!(layer(Some(content)), inflated);
    // It is taken as it is given: whoever gives it has proven it.
    let other = layer(Some(noise(2, 300_000)));
    assert!(other.digest == inflated.digest && other.diff_id != inflated.diff_id);
}
