//! A wheel that was damaged is refused, or the damage lies where nobody looks: it never makes another layer.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod spliced;

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use kiln_oci::Source;
use kiln_oci::layer::Layer;
use kiln_wheel::archive::{Archive, Method};
use kiln_wheel::install::InstalledFile;
use kiln_wheel::testing::WheelBuilder;
use spliced::{Workshop, installed, members, noise, read};

/// One file of every kind. The large ones are those that a layer takes over as they are.
fn wheel() -> WheelBuilder {
    WheelBuilder::new("demo", "1.0")
        .file("demo/large.txt", "the same line again\n".repeat(1000))
        .file("demo/large.bin", [noise(1, 200), vec![0; 20_000]].concat())
        .file("demo/small.txt", "x".repeat(300))
        .file("demo/empty", "")
        .file_with("demo/stored.so", true, false, noise(2, 100))
        .file("demo-1.0.data/scripts/run", "#!python\nprint()\n")
        .file_with("demo-1.0.data/data/share/a", false, false, "a")
        .file("demo-1.0.dist-info/entry_points.txt", "[console_scripts]\ndemo = demo:main\n")
}

/// An undamaged wheel, what is made of it, and its streams.
struct Sound {
    workshop: Workshop,
    bytes: Vec<u8>,
    files: Vec<InstalledFile>,
    layer: Layer,
    streams: Vec<Stream>,
}

struct Stream {
    path: String,
    range: Range<usize>,
    taken_over: bool,
}

/// What became of a damaged wheel.
enum Outcome {
    Refused(String),
    Layer(Layer, Vec<InstalledFile>),
}

impl Sound {
    fn new() -> Self {
        let workshop = Workshop::new(2);
        let (name, bytes) = (wheel().file_name(), wheel().finish());
        let source = workshop.source(name, &bytes);
        let files = installed(&source).unwrap();
        let layer = workshop.splice(&[source], members(std::slice::from_ref(&files))).unwrap();
        read(&workshop.store, &layer);
        let archive = Archive::open(bytes.as_slice(), bytes.len() as u64).unwrap();
        let stream = |entry: &kiln_wheel::archive::Entry| Stream {
            path: entry.path.clone(),
            range: entry.offset as usize..(entry.offset + entry.compressed) as usize,
            taken_over: entry.method == Method::Deflated && entry.size >= 16 << 10,
        };
        let streams: Vec<Stream> = archive.entries().iter().map(stream).collect();
        assert_eq!(streams.iter().filter(|stream| stream.taken_over).count(), 2);
        Self { workshop, bytes, files, layer, streams }
    }

    fn stream(&self, at: usize) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.range.contains(&at))
    }

    /// What comes of the wheel with one bit turned over.
    fn flip(&self, at: usize, bit: u8) -> Outcome {
        let mut bytes = self.bytes.clone();
        bytes[at] ^= 1 << bit;
        let (mut file, path) = tempfile::NamedTempFile::new().unwrap().into_parts();
        file.write_all(&bytes).unwrap();
        let file = Arc::new(fs_err::File::from_parts(file, &*path));
        // The digest is another's: what is tested is the splicing, without the check that a lock makes possible.
        let digest = kiln_plan::digest::Digest::of(b"");
        let at_hand = kiln_oci::AtHand::default();
        let source = Source { name: wheel().file_name(), digest, file, unverified: false, at_hand };
        let files = match installed(&source) {
            Ok(files) => files,
            Err(problem) => return Outcome::Refused(problem),
        };
        if files == self.files && self.stream(at).is_none() {
            // Whatever splicing reads is as it was.
            return Outcome::Layer(self.layer.clone(), files);
        }
        match self.workshop.splice(&[source], members(std::slice::from_ref(&files))) {
            Ok(layer) => Outcome::Layer(layer, files),
            Err(error) => Outcome::Refused(error.to_string()),
        }
    }
}

#[test]
fn a_flipped_bit_in_content_is_refused_with_the_name_of_the_entry() {
    let sound = Sound::new();
    let (mut refused, mut harmless) = (0, 0);
    let bits =
        sound.streams.iter().flat_map(|stream| stream.range.clone().flat_map(|at| (0..8).map(move |bit| (at, bit))));
    // Every seventh: all bits of a byte have their turn.
    for (at, bit) in bits.step_by(7) {
        let stream = sound.stream(at).unwrap();
        match sound.flip(at, bit) {
            Outcome::Refused(problem) => {
                assert!(problem.contains(&stream.path), "{}: bit {bit} at {at}: {problem}", stream.path);
                refused += 1;
            }
            // Bits after the end of a stream, and codes of a deflate stream that nothing uses.
            Outcome::Layer(layer, _) => {
                assert_eq!(layer.diff_id, sound.layer.diff_id, "{}: bit {bit} at {at}", stream.path);
                assert!(stream.taken_over || layer == sound.layer, "{}: bit {bit} at {at}", stream.path);
                harmless += 1;
            }
        }
    }
    assert!(refused > 10 * harmless, "{refused} refused, {harmless} harmless");
}

#[test]
fn a_flipped_bit_in_headers_is_refused_or_changes_nothing_but_execute_bits() {
    let sound = Sound::new();
    let modes = mode_fields(&sound.bytes);
    let (mut refused, mut ignored) = (0, 0);
    for at in (0..sound.bytes.len()).filter(|at| sound.stream(*at).is_none()) {
        for bit in 0..8 {
            match sound.flip(at, bit) {
                Outcome::Refused(_) => refused += 1,
                Outcome::Layer(layer, _) if layer == sound.layer => ignored += 1,
                Outcome::Layer(_, files) => {
                    assert!(modes.contains(&at), "bit {bit} at {at} makes another layer");
                    assert_eq!(without_modes(files), without_modes(sound.files.clone()), "bit {bit} at {at}");
                }
            }
        }
    }
    assert!(refused > 0 && ignored > 0);
}

/// Where the directory says what wrote an entry, and its attributes (APPNOTE, sections 4.4.2 and 4.4.15): nothing else
/// in a wheel says what an entry's mode is, so that there is nothing to check it against.
fn mode_fields(bytes: &[u8]) -> Vec<usize> {
    let directory = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"PK\x01\x02"));
    directory.flat_map(|at| [at + 5, at + 38, at + 39, at + 40, at + 41]).collect()
}

fn without_modes(mut files: Vec<InstalledFile>) -> Vec<InstalledFile> {
    for file in &mut files {
        file.executable = false;
        if let kiln_wheel::install::Content::Entry(entry) = &mut file.content {
            entry.executable = false;
        }
    }
    files
}
