//! Small dynamically linked files, without section headers.

use std::collections::BTreeMap;

/// Where the one segment is loaded: addresses and positions differ by it.
const BASE: u64 = 0x40_0000;

/// A file to be made.
#[derive(Default, Clone)]
pub(super) struct Builder {
    machine: u16,
    kind: u16,
    entries: Vec<(u64, Entry)>,
    interpreter: Option<String>,
    requires: Vec<(String, Vec<(String, bool)>)>,
    provides: Vec<String>,
}

#[derive(Clone)]
enum Entry {
    Text(String),
    Number(u64),
}

/// A shared library for x86-64 of this name.
pub(super) fn library(soname: &str) -> Builder {
    nameless().text(14, soname)
}

/// A shared library that does not say its name.
pub(super) fn nameless() -> Builder {
    Builder { machine: 62, kind: 3, ..Builder::default() }
}

/// A program for x86-64, for glibc's loader.
pub(super) fn program() -> Builder {
    Builder { interpreter: Some("/lib64/ld-linux-x86-64.so.2".into()), ..nameless() }.number(0x6fff_fffb, 0x0800_0000)
}

impl Builder {
    pub(super) fn needs(self, library: &str) -> Self {
        self.text(1, library)
    }

    pub(super) fn rpath(self, path: &str) -> Self {
        self.text(15, path)
    }

    pub(super) fn runpath(self, path: &str) -> Self {
        self.text(29, path)
    }

    pub(super) fn nodeflib(self) -> Self {
        self.number(0x6fff_fffb, 0x800)
    }

    pub(super) fn aarch64(self) -> Self {
        Self { machine: 183, ..self }
    }

    pub(super) fn machine(self, machine: u16) -> Self {
        Self { machine, ..self }
    }

    pub(super) fn kind(self, kind: u16) -> Self {
        Self { kind, ..self }
    }

    pub(super) fn interpreter(self, path: &str) -> Self {
        Self { interpreter: Some(path.to_owned()), ..self }
    }

    pub(super) fn requires(self, library: &str, version: &str) -> Self {
        self.requires_as(library, version, false)
    }

    pub(super) fn requires_weakly(self, library: &str, version: &str) -> Self {
        self.requires_as(library, version, true)
    }

    pub(super) fn provides(mut self, version: &str) -> Self {
        self.provides.push(version.to_owned());
        self
    }

    fn requires_as(mut self, library: &str, version: &str, weak: bool) -> Self {
        let version = (version.to_owned(), weak);
        match self.requires.iter_mut().find(|(known, _)| known == library) {
            Some((_, versions)) => versions.push(version),
            None => self.requires.push((library.to_owned(), vec![version])),
        }
        self
    }

    fn text(mut self, tag: u64, text: &str) -> Self {
        self.entries.push((tag, Entry::Text(text.to_owned())));
        self
    }

    pub(super) fn number(mut self, tag: u64, value: u64) -> Self {
        self.entries.push((tag, Entry::Number(value)));
        self
    }

    /// Header, program headers, strings, the loader's path, versions, and the dynamic table at the end.
    pub(super) fn build(&self) -> Vec<u8> {
        let mut strings = Strings::default();
        let (requires, provides) = (self.verneed(&mut strings), self.verdef(&mut strings));
        let mut dynamic: Vec<(u64, u64)> = Vec::new();
        for (tag, entry) in &self.entries {
            let value = match entry {
                Entry::Text(text) => strings.at(text),
                Entry::Number(value) => *value,
            };
            dynamic.push((*tag, value));
        }
        let mut body = vec![0; 64 + 3 * 56];
        let mut add = |bytes: &[u8]| {
            let at = body.len() as u64;
            body.extend(bytes);
            body.resize(body.len().next_multiple_of(8), 0);
            at
        };
        dynamic.push((5, BASE + add(&strings.bytes)));
        let interpreter = self.interpreter.as_ref().map(|path| (add(format!("{path}\0").as_bytes()), path.len() + 1));
        if !requires.is_empty() {
            dynamic.push((0x6fff_fffe, BASE + add(&requires)));
        }
        if !provides.is_empty() {
            dynamic.push((0x6fff_fffc, BASE + add(&provides)));
        }
        dynamic.push((0, 0));
        let table: Vec<u8> =
            dynamic.iter().flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat()).collect();
        let at = add(&table);
        let size = body.len() as u64;
        let mut headers = vec![(1, 0, size), (2, at, table.len() as u64)];
        headers.extend(interpreter.map(|(at, size)| (3, at, size as u64)));
        self.head(&mut body, &headers);
        body
    }

    fn head(&self, body: &mut [u8], headers: &[(u32, u64, u64)]) {
        body[..6].copy_from_slice(b"\x7fELF\x02\x01");
        body[16..18].copy_from_slice(&self.kind.to_le_bytes());
        body[18..20].copy_from_slice(&self.machine.to_le_bytes());
        body[32..40].copy_from_slice(&64u64.to_le_bytes());
        body[54..56].copy_from_slice(&56u16.to_le_bytes());
        body[56..58].copy_from_slice(&(headers.len() as u16).to_le_bytes());
        for (index, (kind, offset, size)) in headers.iter().enumerate() {
            let header = &mut body[64 + index * 56..][..56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..16].copy_from_slice(&offset.to_le_bytes());
            header[16..24].copy_from_slice(&(BASE + offset).to_le_bytes());
            header[32..40].copy_from_slice(&size.to_le_bytes());
        }
    }

    fn verneed(&self, strings: &mut Strings) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, (library, versions)) in self.requires.iter().enumerate() {
            let last = index + 1 == self.requires.len();
            let next = if last { 0 } else { 16 * (versions.len() as u32 + 1) };
            bytes.extend([1u16.to_le_bytes(), (versions.len() as u16).to_le_bytes()].concat());
            bytes.extend([strings.at(library) as u32, 16, next].map(u32::to_le_bytes).concat());
            for (index, (version, weak)) in versions.iter().enumerate() {
                let next = if index + 1 == versions.len() { 0 } else { 16 };
                let flags = if *weak { 2u32 } else { 0 };
                bytes.extend([0, flags, strings.at(version) as u32, next].map(u32::to_le_bytes).concat());
            }
        }
        bytes
    }

    fn verdef(&self, strings: &mut Strings) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, version) in self.provides.iter().enumerate() {
            let next = if index + 1 == self.provides.len() { 0 } else { 28 };
            bytes.extend([1u16, 0, index as u16 + 1, 1].map(u16::to_le_bytes).concat());
            bytes.extend([0, 20, next, strings.at(version) as u32, 0].map(u32::to_le_bytes).concat());
        }
        bytes
    }
}

/// A table of strings, each once.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    known: BTreeMap<String, u64>,
}

impl Strings {
    fn at(&mut self, text: &str) -> u64 {
        if self.bytes.is_empty() {
            self.bytes.push(0);
        }
        *self.known.entry(text.to_owned()).or_insert_with(|| {
            let at = self.bytes.len() as u64;
            self.bytes.extend(text.bytes());
            self.bytes.push(0);
            at
        })
    }
}
