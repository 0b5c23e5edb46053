use std::io::Write;

use flate2::{Decompress, FlushDecompress, Status};
use libdeflater::{CompressionLvl, Compressor};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// How decoding ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With the stream, after as many bytes of input.
    Done(usize),
    MoreInput,
    Broken,
}

/// Decodes with input and room of these sizes, over and over.
fn inflate_with(decoder: &mut Inflate, stream: &[u8], inputs: &[usize], rooms: &[usize]) -> (Vec<u8>, End) {
    let (mut content, mut read) = (Vec::new(), 0);
    for (&input, &room) in inputs.iter().cycle().zip(rooms.iter().cycle()) {
        let input = &stream[read..(read + input).min(stream.len())];
        let window = &content[content.len() - content.len().min(WINDOW)..];
        let mut output = [window, &vec![0xaa; room]].concat();
        let start = window.len();
        let Ok(progress) = decoder.decode(input, &mut output, start) else { return (content, End::Broken) };
        assert_eq!(output[..start], *window, "what was written has changed");
        assert!(progress.read <= input.len() && progress.written <= room);
        content.extend_from_slice(&output[start..start + progress.written]);
        read += progress.read;
        if progress.done {
            return (content, End::Done(read));
        }
        if progress.read < input.len() && decoder.state != State::Broken {
            assert_eq!(progress.written, room, "it stopped with input and room left");
        } else if progress.read == 0 && progress.written == 0 && read == stream.len() {
            return (content, End::MoreInput);
        }
    }
    unreachable!("there are sizes")
}

/// Decodes in one call after another with much room.
fn inflate(stream: &[u8]) -> (Vec<u8>, End) {
    inflate_with(&mut Inflate::new(), stream, &[128 << 10], &[256 << 10])
}

/// What zlib-rs makes of the stream.
fn zlib(stream: &[u8]) -> (Vec<u8>, End) {
    let (mut decoder, mut content, mut buffer) = (Decompress::new(false), Vec::new(), vec![0; 256 << 10]);
    loop {
        let (read, written) = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress(&stream[read as usize..], &mut buffer, FlushDecompress::None);
        let (read, written) = (decoder.total_in() - read, decoder.total_out() - written);
        content.extend_from_slice(&buffer[..written as usize]);
        match status {
            Err(_) => return (content, End::Broken),
            Ok(Status::StreamEnd) => return (content, End::Done(decoder.total_in() as usize)),
            Ok(_) if read == 0 && written == 0 => return (content, End::MoreInput),
            Ok(_) => {}
        }
    }
}

fn assert_as_zlib(stream: &[u8], inputs: &[usize], rooms: &[usize]) {
    let expected = zlib(stream);
    assert_eq!(inflate(stream), expected);
    assert_eq!(inflate_with(&mut Inflate::new(), stream, inputs, rooms), expected);
}

fn by_zlib(content: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn by_libdeflate(content: &[u8], level: i32) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::new(level).unwrap());
    let mut stream = vec![0; compressor.deflate_compress_bound(content.len())];
    let size = compressor.deflate_compress(content, &mut stream).unwrap();
    stream.truncate(size);
    stream
}

/// Numbers that look random.
fn numbers(mut seed: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % below
    }
}

/// Literals of one distribution or another, and repetitions at small and large distances.
fn content(parts: &[(u8, usize, u64)]) -> Vec<u8> {
    let mut content = Vec::new();
    for &(kind, size, seed) in parts {
        let mut number = numbers(seed);
        let distance = if kind % 2 == 0 { number(40) + 1 } else { number(WINDOW) + 1 };
        for _ in 0..size {
            content.push(match kind {
                0 | 1 => content.len().checked_sub(distance).map_or(7, |from| content[from]),
                2 => number(256) as u8,
                // Codes of 7 to 9 bits.
                3 => (number(200) + number(56)) as u8,
                // Short codes.
                4 => (number(4) * number(4)) as u8,
                // The longest codes there are.
                _ => (number(usize::MAX >> 34) + 1).trailing_zeros() as u8,
            });
        }
    }
    content
}

fn any_content() -> impl Strategy<Value = Vec<u8>> {
    vec((0..6u8, prop_oneof![0..40usize, 0..3_000usize, 0..20_000usize], any::<u64>()), 0..6)
        .prop_map(|parts| content(&parts))
}

fn any_sizes() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..4usize, 1..40usize, 1..5_000usize], 1..20)
}

/// Writes streams that no compressor would.
#[derive(Default)]
struct Bits {
    stream: Vec<u8>,
    bits: usize,
}

impl Bits {
    fn put(&mut self, value: usize, count: usize) -> &mut Self {
        for bit in 0..count {
            if self.bits.is_multiple_of(8) {
                self.stream.push(0);
            }
            *self.stream.last_mut().unwrap() |= ((value >> bit & 1) as u8) << (self.bits % 8);
            self.bits += 1;
        }
        self
    }

    /// A symbol of a code with these lengths (RFC 1951, section 3.2.2).
    fn symbol(&mut self, lengths: &[u8], symbol: usize) -> &mut Self {
        let length = lengths[symbol];
        let shorter = lengths.iter().filter(|other| (1..length).contains(*other));
        let code = shorter.map(|&other| 1 << (length - other)).sum::<usize>()
            + lengths[..symbol].iter().filter(|other| **other == length).count();
        for bit in (0..length).rev() {
            self.put(code >> bit & 1, 1);
        }
        self
    }

    /// The beginning of a last block with codes of these lengths, each written with 4 bits.
    fn dynamic(&mut self, litlen: &[u8], distance: &[u8]) -> &mut Self {
        let four: Vec<u8> = [[4; 16].as_slice(), &[0; 3]].concat();
        self.put(1, 1).put(2, 2).put(litlen.len() - 257, 5).put(distance.len() - 1, 5).put(15, 4);
        for at in ORDER {
            self.put(four[usize::from(at)].into(), 3);
        }
        for &length in [litlen, distance].concat().iter() {
            self.symbol(&four, length.into());
        }
        self
    }
}

fn fixed() -> [u8; 288] {
    let mut lengths = [8; 288];
    lengths[144..256].fill(9);
    lengths[256..280].fill(7);
    lengths
}

/// Lengths of a code without gaps for that many symbols out of `among`, `always` one of them.
fn any_code(among: usize, always: Option<usize>) -> impl Strategy<Value = Vec<u8>> {
    (2..among, any::<u64>(), 1..8usize).prop_map(move |(number, seed, skewed)| {
        let mut random = numbers(seed);
        let mut leaves = vec![1u8, 1];
        while leaves.len() < number {
            // Mostly at the end, for codes of different lengths.
            let at =
                if random(skewed) > 0 { leaves.len() - 1 - random(leaves.len().min(3)) } else { random(leaves.len()) };
            let Some(at) = [at, random(leaves.len()), 0].into_iter().find(|&at| leaves[at] < 15) else { continue };
            let length = leaves.remove(at) + 1;
            leaves.extend([length; 2]);
        }
        let mut lengths = vec![0; among];
        lengths[always.unwrap_or(0)] = leaves.remove(random(leaves.len()));
        for length in leaves {
            let mut at = random(among);
            while lengths[at] > 0 {
                at = (at + 1) % among;
            }
            lengths[at] = length;
        }
        lengths
    })
}

/// A block with any code, of symbols that are mostly literals or mostly not.
fn any_block() -> impl Strategy<Value = Vec<u8>> {
    (any_code(286, Some(256)), any_code(30, None), vec((any::<Index>(), any::<u64>()), 0..2_000), any::<bool>())
        .prop_map(|(litlen, distance, symbols, sound)| {
            let mut bits = Bits::default();
            bits.dynamic(&litlen, &distance);
            let present = |lengths: &[u8]| (0..lengths.len()).filter(|at| lengths[*at] > 0).collect::<Vec<_>>();
            let (litlens, distances) = (present(&litlen), present(&distance));
            let mut written = 0;
            for (symbol, seed) in symbols {
                let mut random = numbers(seed);
                let symbol = *symbol.get(&litlens);
                if symbol < 256 {
                    bits.symbol(&litlen, symbol);
                    written += 1;
                } else if symbol > 256 {
                    let (base, extra) = length_of(symbol as u16).unwrap();
                    let more = random(1 << extra);
                    let back = distances[random(distances.len())];
                    let (distance_base, distance_extra) = distance_of(back as u16).unwrap();
                    let distance_more = random(1 << distance_extra);
                    if sound && distance_base + distance_more > written {
                        continue;
                    }
                    bits.symbol(&litlen, symbol).put(more, extra as usize);
                    bits.symbol(&distance, back).put(distance_more, distance_extra as usize);
                    written += base + more;
                }
            }
            bits.symbol(&litlen, 256);
            bits.stream
        })
}

proptest! {
    #[test]
    fn what_zlib_compresses_is_what_comes_out(content in any_content(), inputs in any_sizes(), rooms in any_sizes()) {
        for level in [0, 1, 6, 9] {
            let stream = by_zlib(&content, level);
            let expected = (content.clone(), End::Done(stream.len()));
            prop_assert_eq!(&inflate(&stream), &expected);
            prop_assert_eq!(&inflate_with(&mut Inflate::new(), &stream, &inputs, &rooms), &expected);
        }
    }

    #[test]
    fn what_libdeflate_compresses_is_what_comes_out(
        content in any_content(), level in 1..13, inputs in any_sizes(), rooms in any_sizes(),
    ) {
        let stream = by_libdeflate(&content, level);
        let expected = (content, End::Done(stream.len()));
        prop_assert_eq!(&inflate(&stream), &expected);
        prop_assert_eq!(&inflate_with(&mut Inflate::new(), &stream, &inputs, &rooms), &expected);
    }

    #[test]
    fn any_block_of_any_codes_is_decoded_as_by_zlib(block in any_block(), inputs in any_sizes(), rooms in any_sizes()) {
        assert_as_zlib(&block, &inputs, &rooms);
    }

    #[test]
    fn any_bytes_are_judged_as_by_zlib(
        kind in 0..8u8, mut bytes in vec(any::<u8>(), 1..600), inputs in any_sizes(), rooms in any_sizes(),
    ) {
        bytes[0] = bytes[0] & !7 | kind;
        assert_as_zlib(&bytes, &inputs, &rooms);
    }

    #[test]
    fn a_damaged_stream_is_judged_as_by_zlib(
        stream in prop_oneof![
            (any_content(), 0..10u32).prop_map(|(content, level)| by_zlib(&content, level)),
            (any_content(), 1..13).prop_map(|(content, level)| by_libdeflate(&content, level)),
            any_block(),
        ],
        damage in vec((prop_oneof![0..200usize, any::<usize>()], any::<u8>()), 1..6),
        length in any::<Index>(),
        cut in any::<bool>(),
        inputs in any_sizes(),
        rooms in any_sizes(),
    ) {
        let mut stream = stream;
        for (at, value) in damage {
            let at = at % stream.len();
            stream[at] = value;
        }
        if cut {
            stream.truncate(length.index(stream.len()));
        }
        assert_as_zlib(&stream, &inputs, &rooms);
    }

    #[test]
    fn a_caller_without_the_window_gets_an_error_or_something_but_no_panic(
        content in any_content(), starts in vec(0..300_000usize, 1..10), rooms in vec(0..3_000usize, 1..10),
    ) {
        let (stream, mut decoder, mut read) = (by_zlib(&content, 6), Inflate::new(), 0);
        for (start, room) in starts.into_iter().zip(rooms) {
            let mut output = vec![0; room];
            let Ok(progress) = decoder.decode(&stream[read..], &mut output, start % (room * 2 + 1)) else { break };
            read += progress.read;
        }
    }
}

#[test]
fn input_and_output_of_any_one_size_make_no_difference() {
    let content = content(&[(3, 300, 1), (0, 400, 2), (5, 200, 3), (1, 300, 4), (2, 100, 5)]);
    for stream in [by_zlib(&content, 0), by_zlib(&content, 6), by_libdeflate(&content, 1), by_libdeflate(&content, 12)]
    {
        for size in 1..=stream.len() {
            let expected = (content.clone(), End::Done(stream.len()));
            assert_eq!(inflate_with(&mut Inflate::new(), &stream, &[size], &[usize::from(u16::MAX)]), expected);
            assert_eq!(inflate_with(&mut Inflate::new(), &stream, &[stream.len()], &[size]), expected);
            assert_eq!(inflate_with(&mut Inflate::new(), &stream, &[size], &[size]), expected);
        }
    }
}

#[test]
fn every_truncation_wants_more_input() {
    let content = content(&[(3, 700, 1), (4, 700, 2), (1, 900, 3), (2, 50, 4)]);
    for stream in [by_zlib(&content, 0), by_zlib(&content, 6), by_libdeflate(&content, 12), by_zlib(b"", 6)] {
        for length in 0..stream.len() {
            let (some, end) = inflate(&stream[..length]);
            assert_eq!(end, End::MoreInput);
            assert!(content.starts_with(&some));
        }
    }
}

#[test]
fn what_follows_a_stream_is_not_read() {
    for content in [content(&[(3, 5_000, 1), (1, 5_000, 2)]), Vec::new()] {
        for mut stream in [by_zlib(&content, 0), by_zlib(&content, 6), by_libdeflate(&content, 1)] {
            let length = stream.len();
            stream.extend([0xff; 100]);
            for inputs in [1, 2, 3, 7, 8, 9, usize::from(u16::MAX)] {
                let expected = (content.clone(), End::Done(length));
                assert_eq!(inflate_with(&mut Inflate::new(), &stream, &[inputs], &[100_000]), expected);
            }
        }
    }
}

#[test]
fn more_than_a_window_is_decoded_in_chunks() {
    let content = content(&[(3, 400_000, 1), (0, 300_000, 2), (1, 300_000, 3), (5, 300_000, 4), (4, 300_000, 5)]);
    for stream in [by_zlib(&content, 1), by_zlib(&content, 6), by_libdeflate(&content, 12)] {
        assert!(inflate(&stream) == (content.clone(), End::Done(stream.len())));
    }
}

#[test]
fn a_decoder_begins_again_after_anything() {
    let (content, mut decoder) = (content(&[(3, 3_000, 1), (1, 3_000, 2)]), Inflate::new());
    let stream = by_zlib(&content, 6);
    for before in [&stream[..], &stream[..1_000], &[7], &[6, 0, 0]] {
        let _ = inflate_with(&mut decoder, before, &[999], &[777]);
        decoder.reset();
        assert_eq!(inflate_with(&mut decoder, &stream, &[999], &[777]), (content.clone(), End::Done(stream.len())));
    }
}

#[test]
fn nothing_more_comes_after_an_error_or_the_end() {
    let mut decoder = Inflate::new();
    assert_eq!(decoder.decode(&[7], &mut [0; 9], 0), Err(Broken));
    assert_eq!(decoder.decode(&by_zlib(b"content", 6), &mut [0; 9], 0), Err(Broken));
    decoder.reset();
    assert!(decoder.decode(&by_zlib(b"content", 6), &mut [0; 9], 0).unwrap().done);
    assert_eq!(decoder.decode(b"more", &mut [0; 9], 7), Ok(Progress { read: 0, written: 0, done: true }));
}

#[test]
fn a_block_of_fixed_codes_has_literals_and_matches() {
    let mut bits = Bits::default();
    bits.put(1, 1).put(1, 2);
    for literal in 0..256 {
        bits.symbol(&fixed(), literal);
    }
    // 258 bytes from 256 bytes back.
    bits.symbol(&fixed(), 285).symbol(&[5; 32], 15).put(63, 6).symbol(&fixed(), 256);
    let content: Vec<u8> = (0..=255).chain(0..=255).chain(0..2).collect();
    assert_eq!(inflate(&bits.stream), (content, End::Done(bits.stream.len())));
}

#[test]
fn matches_of_any_distance_and_length_repeat_what_is_there() {
    for distance in 1..=80 {
        for length in (3..=258).step_by(5) {
            let mut bits = Bits::default();
            bits.put(1, 1).put(1, 2);
            for literal in 0..distance {
                bits.symbol(&fixed(), literal);
            }
            let symbol = (257..286).rev().find(|symbol| length_of(*symbol).unwrap().0 <= length).unwrap();
            let (base, extra) = length_of(symbol).unwrap();
            bits.symbol(&fixed(), symbol.into()).put(length - base, extra as usize);
            let symbol = (0..30).rev().find(|symbol| distance_of(*symbol).unwrap().0 <= distance).unwrap();
            let (base, extra) = distance_of(symbol).unwrap();
            bits.symbol(&[5; 32], symbol.into()).put(distance - base, extra as usize);
            bits.symbol(&fixed(), 256);
            let end = End::Done(bits.stream.len());
            // So that the fast loop meets it.
            bits.stream.extend([0; 20]);
            let content: Vec<u8> = (0..distance + length).map(|at| (at % distance) as u8).collect();
            assert_eq!(inflate(&bits.stream), (content, end), "{distance} {length}");
        }
    }
}

#[test]
fn a_stored_block_needs_a_length_that_its_complement_confirms() {
    let stored =
        |length: u16, complement: u16| [&[1][..], &length.to_le_bytes(), &complement.to_le_bytes(), b"abc"].concat();
    assert_eq!(inflate(&stored(3, !3)), (b"abc".to_vec(), End::Done(8)));
    assert_eq!(inflate(&stored(0, !0)), (Vec::new(), End::Done(5)));
    assert_eq!(inflate(&stored(4, !4)), (b"abc".to_vec(), End::MoreInput));
    assert_eq!(inflate(&stored(3, 3)).1, End::Broken);
}

#[test]
fn what_has_no_meaning_is_refused() {
    let broken = |write: &dyn Fn(&mut Bits)| {
        let mut bits = Bits::default();
        write(&mut bits);
        bits.stream.extend([0; 40]);
        assert_eq!(zlib(&bits.stream).1, End::Broken);
        assert_eq!(inflate(&bits.stream).1, End::Broken);
    };
    let begun = |bits: &mut Bits| {
        bits.put(1, 1).put(1, 2).symbol(&fixed(), 65);
    };
    // A type of block.
    broken(&|bits| _ = bits.put(1, 1).put(3, 2));
    // Symbols.
    for symbol in [286, 287] {
        broken(&|bits| {
            begun(bits);
            bits.symbol(&fixed(), symbol);
        });
    }
    for symbol in [30, 31] {
        broken(&|bits| {
            begun(bits);
            bits.symbol(&fixed(), 257).symbol(&[5; 32], symbol);
        });
    }
    // A distance to before the beginning.
    broken(&|bits| {
        begun(bits);
        bits.symbol(&fixed(), 257).symbol(&[5; 32], 1);
    });
    // Numbers of codes.
    broken(&|bits| _ = bits.put(1, 1).put(2, 2).put(30, 5).put(0, 5).put(0, 4));
    broken(&|bits| _ = bits.put(1, 1).put(2, 2).put(0, 5).put(30, 5).put(0, 4));
    // Nothing to repeat: codes of one bit for 0 and 16.
    broken(&|bits| _ = bits.put(1, 1).put(2, 2).put(0, 5).put(0, 5).put(0, 4).put(0o0101, 12).put(1, 1));
}

/// Lengths of codes for literals and lengths, of which these are not 0.
fn litlen(some: &[(usize, u8)]) -> Vec<u8> {
    let mut lengths = vec![0; 286];
    for &(symbol, length) in some {
        lengths[symbol] = length;
    }
    lengths
}

#[test]
fn codes_with_gaps_or_contradictions_are_refused_unless_one_bit_is_all() {
    let end = |litlen: &[u8], distance: &[u8]| {
        let mut bits = Bits::default();
        bits.dynamic(litlen, distance);
        if litlen[256] > 0 {
            bits.symbol(litlen, 256);
        }
        let length = bits.stream.len();
        bits.stream.extend([0; 10]);
        let (_, end) = inflate(&bits.stream);
        assert_eq!(end, zlib(&bits.stream).1);
        (end == End::Done(length)).then_some(())
    };
    assert!(end(&litlen(&[(65, 1), (256, 1)]), &[1, 1]).is_some());
    assert!(end(&litlen(&[(256, 1)]), &[1]).is_some());
    assert!(end(&litlen(&[(256, 1)]), &[0]).is_some());
    assert!(end(&litlen(&[(65, 1), (256, 2)]), &[1, 1]).is_none());
    assert!(end(&litlen(&[(256, 2)]), &[1, 1]).is_none());
    assert!(end(&litlen(&[(65, 1), (66, 1), (256, 1)]), &[1, 1]).is_none());
    assert!(end(&litlen(&[(65, 1), (66, 1)]), &[1, 1]).is_none());
    assert!(end(&litlen(&[(65, 1), (256, 1)]), &[2]).is_none());
    assert!(end(&litlen(&[(65, 1), (256, 1)]), &[1, 1, 1]).is_none());
}

#[test]
fn literals_of_the_longest_pairs_that_an_entry_could_have_are_decoded() {
    // Codes of 9 or 10 bits for all literals, so that the first bits of a second one decide its length.
    for (length, others) in [(9, [(256, 1)].as_slice()), (10, &[(256, 1), (257, 2)])] {
        let mut litlen = litlen(others);
        litlen[..256].fill(length);
        let mut bits = Bits::default();
        bits.dynamic(&litlen, &[1, 1]);
        let content: Vec<u8> = (0..10_000).map(|at| (at * 167 / 3) as u8).collect();
        for &literal in &content {
            bits.symbol(&litlen, literal.into());
        }
        bits.symbol(&litlen, 256);
        assert!(inflate(&bits.stream) == (content, End::Done(bits.stream.len())));
    }
}

#[test]
fn the_only_distance_can_be_used_but_no_other() {
    let litlen = litlen(&[(65, 2), (256, 2), (257, 1)]);
    let mut bits = Bits::default();
    bits.dynamic(&litlen, &[1]).symbol(&litlen, 65).symbol(&litlen, 257);
    let mut other = Bits { stream: bits.stream.clone(), bits: bits.bits };
    bits.put(0, 1).symbol(&litlen, 256);
    assert_eq!(inflate(&bits.stream), (b"AAAA".to_vec(), End::Done(bits.stream.len())));
    other.put(1, 1);
    assert_as_zlib(&other.stream, &[1], &[1]);
    assert_eq!(inflate(&other.stream).1, End::Broken);
}
