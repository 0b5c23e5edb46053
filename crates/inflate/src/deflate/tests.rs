use std::io::Read as _;

use proptest::prelude::*;

use super::*;

/// Content with text, code-like repetition, zeros and noise, so that blocks of all kinds occur.
fn content(kinds: &[(u8, usize)]) -> Vec<u8> {
    let mut seed = 0x9e37_79b9u32;
    let mut content = Vec::new();
    for (kind, bytes) in kinds {
        for at in 0..*bytes {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            content.push(match kind % 4 {
                0 => b"the quick brown fox "[at % 20] ^ (seed >> 9) as u8 & 3,
                1 => seed as u8,
                2 => 0,
                _ => ((at / 7 * at) >> 5) as u8 & 0x1f,
            });
        }
    }
    content
}

fn zlib(content: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Decodes as the pool does, in chunks behind the window before them.
fn blocks(stream: &[u8], size: usize) -> Blocks {
    let (mut inflate, mut blocks, mut content) = (Inflate::new(), Blocks::default(), Vec::new());
    let mut read = 0;
    while content.len() < size {
        let window: &[u8] = &content[content.len() - WINDOW.min(content.len())..];
        let mut buffer = [window, &[0; 50_000]].concat();
        let input = &stream[read..stream.len().min(read + 10_000)];
        let progress = inflate.decode(input, &mut buffer, window.len()).unwrap();
        let start = window.len();
        content.extend_from_slice(&buffer[start..start + progress.written]);
        read += progress.read;
        blocks.append(inflate.take_blocks());
    }
    blocks
}

fn inflated(stream: &[u8]) -> Vec<u8> {
    let mut back = Vec::new();
    let mut decoder = flate2::read::DeflateDecoder::new(stream);
    decoder.read_to_end(&mut back).unwrap();
    assert_eq!(decoder.total_in(), stream.len() as u64);
    back
}

fn deflated(new: &[u8], kept: &[Kept], old: &[u8], blocks: &Blocks, threads: usize) -> (Vec<u8>, Summed) {
    let mut out = Vec::new();
    let new = Replacement { content: new, size: new.len() as u64, kept: kept.to_vec(), blocks };
    let old = Old { reader: &old, offset: 0 };
    let summed = deflate(&new, &old, &mut out, threads, &|_| Ok(())).unwrap();
    (out, summed)
}

/// How much of a file is compressed anew.
fn compressed(size: u64, kept: &[Kept], blocks: &Blocks) -> u64 {
    let parts = parts(size, kept, blocks);
    assert!(parts.iter().all(|part| part.content.end - part.content.start <= PIECE));
    let anew = parts.iter().filter(|part| part.means == Means::Compressed);
    anew.map(|part| part.content.end - part.content.start).sum()
}

/// A file of which some ranges are kept, with other bytes between them.
fn cut(content: &[u8], ranges: &[std::ops::Range<usize>]) -> (Vec<u8>, Vec<Kept>) {
    let (mut new, mut kept) = (Vec::new(), Vec::new());
    for range in ranges {
        new.extend_from_slice(b"something new");
        let (from, to, bytes) = (range.start as u64, new.len() as u64, range.len() as u64);
        kept.push(Kept { from, to, bytes });
        new.extend_from_slice(&content[range.clone()]);
    }
    (new, kept)
}

#[test]
fn nearly_all_of_what_is_kept_in_long_runs_is_taken_over() {
    let content = content(&[(0, 900_000), (1, 500_000), (3, 900_000), (2, 300_000), (1, 400_000), (0, 600_000)]);
    let stream = zlib(&content, 6);
    let blocks = blocks(&stream, content.len());
    let (new, kept) = cut(&content, &[0..800_000, 1_000_000..2_500_000, 2_700_000..3_600_000]);
    let anew = compressed(new.len() as u64, &kept, &blocks);
    assert!(anew < new.len() as u64 / 5, "{anew} of {}", new.len());
    let (stream, _) = deflated(&new, &kept, &stream, &blocks, 2);
    assert!(inflated(&stream) == new);
    let (all_anew, _) = deflated(&new, &[], &[], &Blocks::default(), 2);
    assert!(stream.len() < all_anew.len() * 11 / 10, "{} instead of {}", stream.len(), all_anew.len());
}

#[test]
fn nothing_at_all_is_a_stream_as_well() {
    let (stream, summed) = deflated(&[], &[], &[], &Blocks::default(), 4);
    assert_eq!((inflated(&stream).len(), summed.crc, summed.size), (0, 0, 0));
}

#[test]
fn blocks_of_another_file_are_not_taken_for_content() {
    let content = content(&[(0, 400_000)]);
    let stream = zlib(&content, 6);
    let blocks = blocks(&stream, content.len());
    let mut new = content.clone();
    new[200_000] ^= 1;
    let kept = vec![Kept { from: 0, to: 0, bytes: content.len() as u64 }];
    let new = Replacement { content: new, size: content.len() as u64, kept, blocks: &blocks };
    let old = Old { reader: &stream, offset: 0 };
    let wrong = deflate(&new, &old, &mut Vec::new(), 2, &|_| Ok(())).unwrap_err();
    assert_eq!(wrong.to_string(), "compressed content is not what it was made of");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_is_cut_and_however_it_was_compressed_the_new_stream_holds_the_new_content(
        kinds in proptest::collection::vec((any::<u8>(), 0usize..400_000), 1..7),
        level in 0u32..10,
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let content = content(&kinds);
        let stream = zlib(&content, level);
        let blocks = blocks(&stream, content.len());
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(content.len() + 1)).collect();
        cuts.sort_unstable();
        let ranges: Vec<_> = cuts.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
        let (new, kept) = cut(&content, &ranges);
        let (made, summed) = deflated(&new, &kept, &stream, &blocks, 1);
        prop_assert!(deflated(&new, &kept, &stream, &blocks, 3).0 == made);
        prop_assert!(inflated(&made) == new);
        let sha256 = Sha256::digest(&new).to_vec();
        prop_assert_eq!(summed, Summed { crc: crc32fast::hash(&new), size: new.len() as u64, sha256 });
    }
}
