//! Text of a requirements file from its bytes, by the rules of pip: a byte order mark, else a coding line (PEP 263) in
//! the first two lines, else UTF-8.

/// Encodings by their byte order marks; the one of UTF-16 begins like the one of UTF-32.
const MARKS: [(&[u8], Encoding); 5] = [
    (b"\xef\xbb\xbf", Encoding::Utf8),
    (b"\xff\xfe\0\0", Encoding::Utf32(u32::from_le_bytes)),
    (b"\0\0\xfe\xff", Encoding::Utf32(u32::from_be_bytes)),
    (b"\xff\xfe", Encoding::Utf16(u16::from_le_bytes)),
    (b"\xfe\xff", Encoding::Utf16(u16::from_be_bytes)),
];

#[derive(Clone, Copy)]
enum Encoding {
    Utf8,
    Latin1,
    Ascii,
    Utf16(fn([u8; 2]) -> u16),
    Utf32(fn([u8; 4]) -> u32),
}

/// Bytes that are no text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undecodable {
    /// The coding line names an encoding that is not read here.
    Unknown(String),
    /// The bytes are not in the encoding of the file.
    Invalid,
}

/// Decodes a file.
pub(super) fn decode(bytes: &[u8]) -> Result<String, Undecodable> {
    for (mark, encoding) in MARKS {
        if let Some(rest) = bytes.strip_prefix(mark) {
            return encoding.decode(rest).ok_or(Undecodable::Invalid);
        }
    }
    let encoding = match coding_line(bytes) {
        Some(name) => named(&name).ok_or(Undecodable::Unknown(name))?,
        None => Encoding::Utf8,
    };
    encoding.decode(bytes).ok_or(Undecodable::Invalid)
}

impl Encoding {
    fn decode(self, bytes: &[u8]) -> Option<String> {
        match self {
            Self::Utf8 => std::str::from_utf8(bytes).ok().map(str::to_owned),
            Self::Ascii => bytes.is_ascii().then(|| bytes.iter().copied().map(char::from).collect()),
            Self::Latin1 => Some(bytes.iter().copied().map(char::from).collect()),
            Self::Utf16(read) => {
                let (units, rest) = bytes.as_chunks::<2>();
                let units: Vec<u16> = units.iter().map(|unit| read(*unit)).collect();
                rest.is_empty().then(|| String::from_utf16(&units).ok())?
            }
            Self::Utf32(read) => {
                let (units, rest) = bytes.as_chunks::<4>();
                let text: Option<String> = units.iter().map(|unit| char::from_u32(read(*unit))).collect();
                text.filter(|_| rest.is_empty())
            }
        }
    }
}

/// The name after `coding:` or `coding=` in a comment of the first two lines.
fn coding_line(bytes: &[u8]) -> Option<String> {
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    for line in bytes.split(|byte| *byte == b'\n').take(2).filter(|line| line.first() == Some(&b'#')) {
        for at in 0..line.len() {
            let Some(rest) = line[at..].strip_prefix(b"coding:").or(line[at..].strip_prefix(b"coding=")) else {
                continue;
            };
            let name: Vec<u8> = rest.trim_ascii_start().iter().copied().take_while(of_name).collect();
            if !name.is_empty() {
                return String::from_utf8(name).ok();
            }
        }
    }
    None
}

/// An encoding by one of the names that Python has for it.
fn named(name: &str) -> Option<Encoding> {
    let name = name.to_ascii_lowercase().replace(['_', ' '], "-");
    match name.as_str() {
        "utf-8" | "utf8" | "u8" | "utf" => Some(Encoding::Utf8),
        "ascii" | "us-ascii" | "646" => Some(Encoding::Ascii),
        "latin-1" | "latin1" | "latin" | "l1" | "iso-8859-1" | "iso8859-1" | "8859" | "cp819" => Some(Encoding::Latin1),
        _ => None,
    }
}
