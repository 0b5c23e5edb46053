//! A deflate stream, decoded in pieces by kiln and at once by zlib-rs: the same content and the same end.
//!
//! The first four bytes give the sizes of the pieces of input and of the room for output, two of 16 bits; the rest is the
//! stream.

#![no_main]

use flate2::{Decompress, FlushDecompress, Status};
use kiln_inflate::{Inflate, WINDOW};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 256 << 20);

/// The longest content that is compared: deflate makes a thousand bytes of one.
const MOST: usize = 16 << 20;

/// The end of a stream.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// After so many bytes of input.
    Done(usize),
    MoreInput,
    Broken,
    /// More content than is compared.
    TooLong,
}

fuzz_target!(|bytes: &[u8]| {
    let Some((sizes, stream)) = bytes.split_first_chunk::<4>() else { return };
    // One byte of room or of input at a time is slow, and no other case than a few.
    let size = |low: u8, high: u8| usize::from(u16::from_le_bytes([low, high])).max(7);
    let (content, end) = by_kiln(stream, size(sizes[0], sizes[1]), size(sizes[2], sizes[3]));
    let (expected, expected_end) = by_zlib(stream);
    if end == End::TooLong || expected_end == End::TooLong {
        let both = content.len().min(expected.len());
        assert!(content[..both] == expected[..both], "the beginnings differ");
        return;
    }
    assert_eq!(end, expected_end);
    assert!(content == expected, "the contents differ");
});

fn by_kiln(stream: &[u8], input: usize, room: usize) -> (Vec<u8>, End) {
    let (mut decoder, mut content, mut read) = (Inflate::new(), Vec::new(), 0);
    while content.len() <= MOST {
        let start = content.len();
        content.resize(start + room, 0);
        let window = start.saturating_sub(WINDOW);
        let piece = &stream[read..stream.len().min(read + input)];
        let progress = decoder.decode(piece, &mut content[window..], start - window);
        let Ok(progress) = progress else {
            content.truncate(start);
            return (content, End::Broken);
        };
        content.truncate(start + progress.written);
        read += progress.read;
        if progress.done {
            return (content, End::Done(read));
        }
        if progress.read == 0 && progress.written == 0 && read == stream.len() {
            return (content, End::MoreInput);
        }
    }
    (content, End::TooLong)
}

fn by_zlib(stream: &[u8]) -> (Vec<u8>, End) {
    let (mut decoder, mut content, mut buffer) = (Decompress::new(false), Vec::new(), vec![0; 256 << 10]);
    while content.len() <= MOST {
        let (read, written) = (decoder.total_in() as usize, decoder.total_out() as usize);
        let status = decoder.decompress(&stream[read..], &mut buffer, FlushDecompress::None);
        let (now_read, now_written) = (decoder.total_in() as usize, decoder.total_out() as usize);
        content.extend_from_slice(&buffer[..now_written - written]);
        match status {
            Err(_) => return (content, End::Broken),
            Ok(Status::StreamEnd) => return (content, End::Done(now_read)),
            Ok(_) if now_read == read && now_written == written => return (content, End::MoreInput),
            Ok(_) => {}
        }
    }
    (content, End::TooLong)
}
