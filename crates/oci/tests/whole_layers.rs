//! Layers that are stored whole: the same bytes from any number of threads, and the same tar as a spliced layer.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod spliced;

use std::io::{Read, Write};

use flate2::bufread::MultiGzDecoder;
use kiln_oci::layer::{Layer, MediaType};
use kiln_oci::whole::{LayerWriter, recompress};
use kiln_plan::digest::Digest;
use kiln_wheel::testing::WheelBuilder;
use spliced::{Workshop, installed, members, noise, read};

const THREADS: [usize; 3] = [1, 2, 5];

/// Half noise, half text: compression finds something to do and something to give up on.
fn mixed(length: usize) -> Vec<u8> {
    let text = b"the same line again\n".iter().copied().cycle();
    noise(length as u64, length / 2).into_iter().chain(text).take(length).collect()
}

/// Larger than several of the jobs that zstd cuts a frame into.
fn wheel() -> WheelBuilder {
    WheelBuilder::new("demo", "1.0")
        .file("demo/large.so", mixed(24 << 20))
        .file_with("demo/stored.so", true, false, mixed(300_000))
        .file("demo/small.py", "x")
        .file("demo/empty", "")
        .file("demo-1.0.data/scripts/run", "#!python\n")
}

#[test]
fn a_recompressed_layer_has_the_tar_of_the_spliced_one_and_its_bytes_do_not_depend_on_threads() {
    let mut layers = Vec::new();
    let bytes = wheel().finish();
    for threads in THREADS {
        let workshop = Workshop::new(threads);
        let sources = [workshop.source(wheel().file_name(), &bytes)];
        let files = members(&[installed(&sources[0]).unwrap()]);
        let layer = recompress(&workshop.store, &workshop.pool, &sources, &files, threads, &workshop.work()).unwrap();
        assert_eq!(layer.media_type, MediaType::Zstd);
        if layers.is_empty() {
            let tar = zstd::decode_all(read(&workshop.store, &layer).as_slice()).unwrap();
            assert_eq!(Digest::of(&tar), layer.diff_id);
            assert_eq!(workshop.splice(&sources, files).unwrap().diff_id, layer.diff_id);
        }
        layers.push(layer);
    }
    assert!(layers.iter().all(|layer| *layer == layers[0]), "{layers:?}");
}

#[test]
fn the_bytes_of_a_gzip_layer_do_not_depend_on_threads_or_on_how_it_is_written() {
    // At, below and above the size of a member, and of several.
    for length in [1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_500_000] {
        let tar = mixed(length);
        let mut layers: Vec<Layer> = Vec::new();
        let workshop = Workshop::new(1);
        for (threads, piece) in THREADS.into_iter().zip([7_001, 300_000, 6_000_000]) {
            let mut writer = LayerWriter::new(&workshop.store, MediaType::Gzip, threads).unwrap();
            tar.chunks(piece).for_each(|part| writer.write_all(part).unwrap());
            layers.push(writer.finish().unwrap());
        }
        assert!(layers.iter().all(|layer| *layer == layers[0]), "{layers:?}");
        let mut found = Vec::new();
        MultiGzDecoder::new(read(&workshop.store, &layers[0]).as_slice()).read_to_end(&mut found).unwrap();
        assert!(found == tar && layers[0].diff_id == Digest::of(&tar), "{length}");
    }
}
