//! A file of a wheel that gets other content, of which its old stream has much already: any stream at all, cut anywhere.
//!
//! The first eight bytes say which two ranges of the old content stay; the rest is the stream.

#![no_main]

use std::collections::BTreeMap;

use kiln_inflate::Replacement;
use kiln_inflate::{Inflate, Kept};
use kiln_wheel::install::Wheel;
use kiln_wheel::repack::Repack;
use kiln_wheel::testing::ZipBuilder;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

const NAME: &str = "demo-1.0-py3-none-any.whl";
const MOST: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Some((cuts, stream)) = bytes.split_first_chunk::<8>() else { return };
    let (mut inflate, mut content) = (Inflate::new(), vec![0; MOST]);
    let Ok(done) = inflate.decode(stream, &mut content, 0) else { return };
    if !done.done {
        return;
    }
    content.truncate(done.written);
    let blocks = inflate.take_blocks();
    let mut cuts: Vec<usize> = cuts.as_chunks().0.iter().map(|cut| usize::from(u16::from_le_bytes(*cut))).collect();
    cuts.iter_mut().for_each(|cut| *cut = *cut * content.len() / usize::from(u16::MAX));
    cuts.sort_unstable();
    let (mut new, mut kept) = (b"new".to_vec(), Vec::new());
    for range in [cuts[0]..cuts[1], cuts[2]..cuts[3]] {
        kept.push(Kept { from: range.start as u64, to: new.len() as u64, bytes: range.len() as u64 });
        new.extend_from_slice(&content[range]);
    }
    let old = ZipBuilder::new()
        .compressed("a", &stream[..done.read], &content)
        .stored("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        .stored("demo-1.0.dist-info/METADATA", "Name: demo\nVersion: 1.0\n")
        .stored("demo-1.0.dist-info/RECORD", "")
        .finish();
    let open = |bytes: Vec<u8>| {
        let size = bytes.len() as u64;
        Wheel::open(NAME.parse().expect("a name"), bytes, size).expect("a wheel")
    };
    let replacement = Replacement { content: new.as_slice(), size: new.len() as u64, kept, blocks: &blocks };
    let replaced = BTreeMap::from([("a".to_owned(), replacement)]);
    let mut out = Vec::new();
    let repack = Repack {
        replaced: &replaced,
        left_out: &Default::default(),
        tag: "t",
        note: ("K", "v"),
        threads: 1,
        advance: &|_| Ok(()),
    };
    repack.write(&open(old), &mut out).expect("memory can be written");
    let wheel = open(out);
    let entry = wheel.archive.entry("a").expect("it was there");
    assert!(wheel.archive.read(entry, u64::MAX).expect("it can be read") == new);
});
