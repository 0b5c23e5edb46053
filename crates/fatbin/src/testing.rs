//! Shared objects with GPU code made in memory, for tests of this crate and of those above it: laid out as NVIDIA's
//! linkers do it, with payloads that are no code.

use crate::region::MAGIC;

/// The address of the writable segment, beyond its place in the file; also what segments are aligned to.
const ALIGNMENT: u64 = 0x20_0000;
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;

/// One entry of a region: kind, number of the architecture, flags, bytes of payload.
pub fn entry(kind: u16, number: u32, flags: u64, payload: usize) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[0..2].copy_from_slice(&kind.to_le_bytes());
    bytes[2..4].copy_from_slice(&0x0101u16.to_le_bytes());
    bytes[4..8].copy_from_slice(&64u32.to_le_bytes());
    bytes[8..16].copy_from_slice(&(payload as u64).to_le_bytes());
    bytes[28..32].copy_from_slice(&number.to_le_bytes());
    bytes[40..48].copy_from_slice(&flags.to_le_bytes());
    bytes.extend(vec![number as u8; payload]);
    bytes
}

/// An entry with a payload; flags for its compression are the caller's.
pub fn entry_of(kind: u16, number: u32, flags: u64, payload: &[u8]) -> Vec<u8> {
    let padded = payload.len().next_multiple_of(8);
    let mut bytes = entry(kind, number, flags, padded);
    bytes[16..20].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes[64..64 + payload.len()].copy_from_slice(payload);
    bytes[64 + payload.len()..].fill(0);
    bytes
}

/// An entry whose pieces share a payload, as nvcc 13.4 writes them: for each its kind, architecture, flags and content.
pub fn concatenated(parts: &[(u16, u32, u64, &[u8])]) -> Vec<u8> {
    let (mut table, mut payload) = (Vec::new(), Vec::new());
    for (kind, number, flags, content) in parts {
        let mut record = vec![0; 64];
        record[0..4].copy_from_slice(&[kind.to_le_bytes(), 0x0101u16.to_le_bytes()].concat());
        record[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        record[8..12].copy_from_slice(&(content.len() as u32).to_le_bytes());
        record[24..28].copy_from_slice(&[8, 0, 1, 0]);
        record[28..32].copy_from_slice(&number.to_le_bytes());
        record[40..48].copy_from_slice(&flags.to_le_bytes());
        table.extend(record);
        // Options, which are there for some.
        table.extend(vec![3; if flags & 0x100_0000 == 0 { 0 } else { 32 }]);
        payload.extend(*content);
    }
    let mut bytes = entry(0x100, 0, 0x11, payload.len().next_multiple_of(8));
    let header = 72 + table.len() as u32;
    bytes[4..8].copy_from_slice(&header.to_le_bytes());
    payload.resize(payload.len().next_multiple_of(8), 0);
    let counts = [(parts.len() as u32).to_le_bytes(), (header - 64).to_le_bytes()].concat();
    [&bytes[..64], &counts, &table, &payload].concat()
}

/// A cubin as NVIDIA's assembler lays it out, names first, with no instructions: the architecture's number, a suffix as the
/// assembler's options have it (`a`, `f` or nothing), and kernels.
pub fn cubin(number: u32, suffix: &str, kernels: &[&str]) -> Vec<u8> {
    let mut names = vec![0];
    let mut sections: Vec<(usize, u32, u64, Vec<u8>)> = vec![(0, 0, 0, Vec::new())];
    let mut put = |name: &str, kind, flags, content| {
        sections.push((names.len(), kind, flags, content));
        names.extend(name.bytes().chain([0]));
    };
    put(".shstrtab", 3, 0, Vec::new());
    put(".symtab", 2, 0, vec![0; 48]);
    put(".note.nv.tkinfo", 7, 0, format!("ptxas\0-arch sm_{number}{suffix} -m 64 \0").into_bytes());
    for kernel in kernels {
        put(&format!(".text.{kernel}"), 1, 6, vec![0xff; 128]);
        put(&format!(".nv.constant0.{kernel}"), 1, 2, vec![0; 528]);
    }
    sections[1].3 = names;
    let mut file = vec![0; HEADER as usize];
    file[..9].copy_from_slice(b"\x7fELF\x02\x01\x01\x41\x08");
    file[18..20].copy_from_slice(&190u16.to_le_bytes());
    file[48..52].copy_from_slice(&(number << 8).to_le_bytes());
    let mut headers = Vec::new();
    for (name, kind, flags, content) in &sections {
        headers.extend((*name as u32).to_le_bytes());
        headers.extend(kind.to_le_bytes());
        for word in [*flags, 0, file.len() as u64, content.len() as u64, 0, 1, 0] {
            headers.extend(word.to_le_bytes());
        }
        file.extend(content);
    }
    let table = file.len() as u64;
    file[40..48].copy_from_slice(&table.to_le_bytes());
    file[60..62].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    file[58..60].copy_from_slice(&64u16.to_le_bytes());
    file[62..64].copy_from_slice(&1u16.to_le_bytes());
    file.extend(headers);
    file
}

/// A region of these entries.
pub fn region(entries: &[Vec<u8>]) -> Vec<u8> {
    let body = entries.concat();
    let mut bytes = MAGIC.to_le_bytes().to_vec();
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(16u16.to_le_bytes());
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Builds a shared object.
#[derive(Debug, Clone)]
pub struct Library {
    machine: u16,
    kind: u16,
    regions: Vec<Vec<u8>>,
    relocatable: Vec<Vec<u8>>,
    /// Regions that a word of `.data` points at too: their place and how far into them.
    pointers: Vec<(usize, u64)>,
    /// Regions without a wrapper.
    bare: Vec<usize>,
    /// Regions that a symbol is at: their place and how far into them.
    symbols: Vec<(usize, u64)>,
    /// True if relocations are written as RELR.
    packed: bool,
    /// True if there is room for program headers.
    room: bool,
    read_only: Vec<u8>,
    unfilled: bool,
    note: bool,
    /// True if a hash table lies behind the program headers, and the dynamic table names it.
    hashed: bool,
    /// Regions in a section of data that a table of ends and beginnings names.
    tabled: Vec<Vec<u8>>,
    /// Frames in a section of data, each with its architecture and the bytes that it inflates to.
    framed: Vec<(u32, Vec<u8>, u32)>,
    /// Code among read-only data, and what names it.
    embedded: Vec<(Vec<u8>, By)>,
}

/// Something that names a piece of code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// No reference at all.
    Nothing,
    /// A word of `.data`, which the loader fills in.
    Word,
    /// An instruction.
    Instruction,
}

impl Default for Library {
    fn default() -> Self {
        Self::new()
    }
}

/// A section that is being built.
struct Part {
    name: &'static str,
    kind: u32,
    flags: u64,
    offset: u64,
    address: u64,
    content: Vec<u8>,
}

impl Library {
    /// One without code, for x86-64.
    pub fn new() -> Self {
        Self {
            machine: 62,
            kind: 3,
            regions: Vec::new(),
            relocatable: Vec::new(),
            pointers: Vec::new(),
            bare: Vec::new(),
            symbols: Vec::new(),
            packed: false,
            room: false,
            read_only: (0..100).collect(),
            unfilled: false,
            note: false,
            hashed: false,
            tabled: Vec::new(),
            framed: Vec::new(),
            embedded: Vec::new(),
        }
    }

    /// Adds a region to `.nv_fatbin`.
    #[must_use]
    pub fn region(mut self, entries: &[Vec<u8>]) -> Self {
        self.regions.push(region(entries));
        self
    }

    /// Adds regions as they are, without a wrapper.
    #[must_use]
    pub fn raw(mut self, regions: &[u8]) -> Self {
        self.bare.push(self.regions.len());
        self.regions.push(regions.to_vec());
        self
    }

    /// Sets the content of read-only data.
    #[must_use]
    pub fn read_only(mut self, content: Vec<u8>) -> Self {
        self.read_only = content;
        self
    }

    /// Adds a region to `.cask_resource`, as cuBLASLt has them.
    #[must_use]
    pub fn tabled(mut self, entries: &[Vec<u8>]) -> Self {
        self.tabled.push(region(entries));
        self
    }

    /// Adds a Zstandard frame to `.ldata`, with a descriptor, as cuBLASLt has them.
    #[must_use]
    pub fn framed(mut self, architecture: u32, frame: Vec<u8>, inflated: u32) -> Self {
        self.framed.push((architecture, frame, inflated));
        self
    }

    /// Adds code to `.lrodata`, as cuFFT has it in `.ldata`.
    #[must_use]
    pub fn embedded(mut self, code: Vec<u8>, by: By) -> Self {
        self.embedded.push((code, by));
        self
    }

    /// Adds a region of code for the linker.
    #[must_use]
    pub fn relocatable(mut self, entries: &[Vec<u8>]) -> Self {
        self.relocatable.push(region(entries));
        self
    }

    /// Code of aarch64.
    #[must_use]
    pub fn aarch64(mut self) -> Self {
        self.machine = 183;
        self
    }

    /// A program that must be loaded where it says, so that no relocation names its pointers.
    #[must_use]
    pub fn fixed(mut self) -> Self {
        self.kind = 2;
        self
    }

    /// An object file, which is linked before anything runs.
    #[must_use]
    pub fn object(mut self) -> Self {
        self.kind = 1;
        self
    }

    /// Something besides wrappers points at a region, so many bytes into it.
    #[must_use]
    pub fn pointer(mut self, region: usize, into: u64) -> Self {
        self.pointers.push((region, into));
        self
    }

    /// No wrapper points at a region.
    #[must_use]
    pub fn without_wrapper(mut self, region: usize) -> Self {
        self.bare.push(region);
        self
    }

    /// A symbol lies in a region, so many bytes into it.
    #[must_use]
    pub fn symbol(mut self, region: usize, into: u64) -> Self {
        self.symbols.push((region, into));
        self
    }

    /// Relocations in the packed form.
    #[must_use]
    pub fn packed(mut self) -> Self {
        self.packed = true;
        self
    }

    /// Room behind the program headers.
    #[must_use]
    pub fn room(mut self) -> Self {
        self.room = true;
        self
    }

    /// A wrapper whose pointer is filled in while the program runs.
    #[must_use]
    pub fn unfilled_wrapper(mut self) -> Self {
        self.unfilled = true;
        self
    }

    /// A segment of notes.
    #[must_use]
    pub fn note(mut self) -> Self {
        self.note = true;
        self
    }

    /// A hash table of symbols right behind the program headers.
    #[must_use]
    pub fn hashed(mut self) -> Self {
        self.hashed = true;
        self
    }

    /// The file.
    pub fn finish(&self) -> Vec<u8> {
        let wrapped: Vec<usize> = (0..self.regions.len()).filter(|at| !self.bare.contains(at)).collect();
        let fixed = self.kind == 2;
        let by_words = self.embedded.iter().filter(|(_, by)| *by == By::Word).count();
        let named = 2 * self.tabled.len() + self.framed.len() + by_words;
        let words = if fixed { 0 } else { wrapped.len() + self.relocatable.len() + self.pointers.len() + named };
        let headers = if self.note { 3 } else { 2 };
        let mut at = HEADER + headers * PROGRAM_HEADER + if self.room { 1024 } else { 0 };
        let mut parts: Vec<Part> = Vec::new();
        let mut put = |at: &mut u64, name, kind, flags, shift: u64, content: Vec<u8>| {
            *at = at.next_multiple_of(8);
            let (offset, address) = (*at, if flags == 0 { 0 } else { *at + shift });
            *at += content.len() as u64;
            parts.push(Part { name, kind, flags, offset, address, content });
            address
        };
        let table = if self.packed { 8 * (words as u64 + 1) } else { 24 * words as u64 };
        let hash = if self.hashed { put(&mut at, ".gnu.hash", 0x6fff_fff6, 2, 0, vec![5; 400]) } else { 0 };
        put(&mut at, ".rela.dyn", if self.packed { 19 } else { 4 }, 2, 0, vec![0; table as usize]);
        let text = put(&mut at, ".text", 1, 6, 0, vec![0xc3; 64 + 8 * self.embedded.len()]);
        let (fat, starts) = joined(&self.regions);
        let code = put(&mut at, ".nv_fatbin", 1, 2, 0, fat);
        let (fat, relocatable) = joined(&self.relocatable);
        let for_linker = put(&mut at, "__nv_relfatbin", 1, 2, 0, fat);
        put(&mut at, ".rodata", 1, 2, 0, self.read_only.clone());
        let (content, spans) = padded(&self.tabled, 8);
        let resource = if content.is_empty() { 0 } else { put(&mut at, ".cask_resource", 1, 2, 0, content) };
        let codes: Vec<Vec<u8>> = self.embedded.iter().map(|(code, _)| code.clone()).collect();
        let (content, starts_of_code) = padded(&codes, 32);
        let embedded = if content.is_empty() { 0 } else { put(&mut at, ".lrodata", 1, 2, 0, content) };
        let embedded: Vec<(u64, By)> =
            starts_of_code.iter().zip(&self.embedded).map(|((start, _), (_, by))| (embedded + start, *by)).collect();
        let read_only = at;
        at = at.next_multiple_of(0x1000);
        let writable = at;
        let targets = wrapped.iter().map(|region| code + starts[*region]);
        let targets: Vec<u64> = targets.chain(relocatable.iter().map(|start| for_linker + start)).collect();
        let wrapper = |target: &u64| {
            let mut bytes = 0x4662_43B1_u32.to_le_bytes().to_vec();
            bytes.extend(1u32.to_le_bytes());
            bytes.extend(target.to_le_bytes());
            bytes.extend([0; 8]);
            bytes
        };
        let empty = if self.unfilled { wrapper(&0) } else { Vec::new() };
        let wrappers = targets.iter().flat_map(wrapper).chain(empty).collect();
        let segment = put(&mut at, ".nvFatBinSegment", 1, 3, ALIGNMENT, wrappers);
        let others: Vec<u64> = self.pointers.iter().map(|(region, into)| code + starts[*region] + into).collect();
        if !self.framed.is_empty() {
            at = at.next_multiple_of(32);
        }
        let frames: Vec<Vec<u8>> = self.framed.iter().map(|(_, frame, _)| frame.clone()).collect();
        let (content, places) = padded(&frames, 32);
        let frames = if content.is_empty() { 0 } else { put(&mut at, ".ldata", 1, 3, ALIGNMENT, content) };
        let mut table: Vec<(u64, bool)> = others.iter().map(|target| (*target, true)).collect();
        table.extend(spans.iter().flat_map(|(start, end)| [(resource + end, true), (resource + start, true)]));
        for ((number, frame, inflated), (start, _)) in self.framed.iter().zip(&places) {
            let sizes = frame.len() as u64 | u64::from(*inflated) << 32;
            table.extend([(u64::from(*number), false), (frames + start, true), (0, false), (sizes, false)]);
        }
        table.extend(embedded.iter().filter(|(_, by)| *by == By::Word).map(|(address, _)| (*address, true)));
        let content = table.iter().flat_map(|(word, _)| word.to_le_bytes()).chain([7; 16]).collect();
        let data = put(&mut at, ".data", 1, 3, ALIGNMENT, content);
        if self.hashed {
            let named = [0x6fff_fef5, hash, 0, 0].map(u64::to_le_bytes).concat();
            put(&mut at, ".dynamic", 6, 3, ALIGNMENT, named);
        }
        let end = at;
        let symbols = self.symbols.iter().flat_map(|(region, into)| symbol(code + starts[*region] + into));
        put(&mut at, ".symtab", 2, 0, 0, symbols.collect());
        let locations = (0..targets.len() as u64).map(|at| segment + 24 * at + 8);
        let told = (0..).zip(&table).filter(|(_, (_, told))| *told).map(|(at, (word, _))| (data + 8 * at, *word));
        let all: Vec<(u64, u64)> = locations.zip(targets).chain(told).take(words).collect();
        parts[usize::from(self.hashed)].content = if self.packed { relr(&all) } else { rela(&all, self.machine) };
        if let Some(part) = parts.iter_mut().find(|part| part.name == ".text") {
            for (at, (address, _)) in embedded.iter().enumerate().filter(|(_, (_, by))| *by == By::Instruction) {
                let place = 64 + 8 * at;
                part.content[place..place + 8].copy_from_slice(&instruction(
                    self.machine,
                    text + place as u64,
                    *address,
                ));
            }
        }
        let loads = [(5, 0, 0, read_only), (6, writable, writable + ALIGNMENT, end - writable)];
        self.file(parts, &loads)
    }

    fn file(&self, mut parts: Vec<Part>, loads: &[(u32, u64, u64, u64)]) -> Vec<u8> {
        let mut names = vec![0];
        let mut headers = vec![0; HEADER as usize];
        let end = parts.last().map_or(HEADER, |last| last.offset + last.content.len() as u64).next_multiple_of(8);
        let all: Vec<u8> = parts.iter().flat_map(|part| part.name.bytes().chain([0])).collect();
        let mut content = [vec![0], all, b".shstrtab\0".to_vec()].concat();
        content.resize(content.len().next_multiple_of(8), 0);
        parts.push(Part { name: ".shstrtab", kind: 3, flags: 0, offset: end, address: 0, content });
        let mut file = vec![0; HEADER as usize];
        for part in &parts {
            headers.extend((names.len() as u32).to_le_bytes());
            headers.extend(part.kind.to_le_bytes());
            for word in [part.flags, part.address, part.offset, part.content.len() as u64, 0, 8, 0] {
                headers.extend(word.to_le_bytes());
            }
            names.extend(part.name.bytes().chain([0]));
        }
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[6] = 1;
        for (at, half) in [(16, self.kind), (18, self.machine), (20, 1), (52, 64), (54, 56), (58, 64)] {
            file[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        file[56..58].copy_from_slice(&(loads.len() as u16 + u16::from(self.note)).to_le_bytes());
        file[60..62].copy_from_slice(&(parts.len() as u16 + 1).to_le_bytes());
        file[62..64].copy_from_slice(&(parts.len() as u16).to_le_bytes());
        for (flags, offset, address, size) in loads {
            file.extend(1u32.to_le_bytes());
            file.extend(flags.to_le_bytes());
            for word in [*offset, *address, *address, *size, *size, ALIGNMENT] {
                file.extend(word.to_le_bytes());
            }
        }
        if self.note {
            file.extend(4u32.to_le_bytes());
            file.extend([0; PROGRAM_HEADER as usize - 4]);
        }
        for part in parts {
            file.resize(part.offset as usize, 0);
            file.extend(part.content);
        }
        let section_headers = file.len() as u64;
        file[32..40].copy_from_slice(&HEADER.to_le_bytes());
        file[40..48].copy_from_slice(&section_headers.to_le_bytes());
        file.extend(headers);
        file
    }
}

/// Instructions at a place that take an address: `lea` and `nop`, or `adrp` and `add`.
fn instruction(machine: u16, place: u64, address: u64) -> [u8; 8] {
    if machine == 62 {
        let distance = address.wrapping_sub(place + 7) as u32;
        let [first, second, third, fourth] = distance.to_le_bytes();
        return [0x48, 0x8d, 0x05, first, second, third, fourth, 0x90];
    }
    let pages = ((address >> 12).wrapping_sub(place >> 12)) as u32;
    let page = 0x9000_0000 | (pages & 3) << 29 | (pages >> 2 & 0x7_ffff) << 5;
    let add = 0x9100_0000 | (address as u32 & 0xfff) << 10;
    (u64::from(page) | u64::from(add) << 32).to_le_bytes()
}

/// Regions one after the other, and where each begins.
fn joined(regions: &[Vec<u8>]) -> (Vec<u8>, Vec<u64>) {
    let (mut bytes, mut starts) = (Vec::new(), Vec::new());
    for region in regions {
        bytes.resize(usize::next_multiple_of(bytes.len(), 8), 0);
        starts.push(bytes.len() as u64);
        bytes.extend(region);
    }
    (bytes, starts)
}

/// Pieces with zeros behind each, so that all begin at multiples of the alignment, and something else before and behind
/// them; where each begins, and where its zeros end.
fn padded(pieces: &[Vec<u8>], alignment: usize) -> (Vec<u8>, Vec<(u64, u64)>) {
    let mut bytes = if pieces.is_empty() { Vec::new() } else { vec![9; alignment] };
    let mut spans = Vec::new();
    for piece in pieces {
        let start = bytes.len() as u64;
        bytes.extend(piece);
        bytes.resize((bytes.len() + 8).next_multiple_of(alignment), 0);
        spans.push((start, bytes.len() as u64));
    }
    bytes.extend(vec![9; bytes.len().min(alignment)]);
    (bytes, spans)
}

/// A local object in `.nv_fatbin`, the third section.
fn symbol(address: u64) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 1, 0, 3, 0];
    bytes.extend(address.to_le_bytes());
    bytes.extend(16u64.to_le_bytes());
    bytes
}

fn rela(all: &[(u64, u64)], machine: u16) -> Vec<u8> {
    let relative: u64 = if machine == 62 { 8 } else { 1027 };
    all.iter().flat_map(|(location, target)| [*location, relative, *target]).flat_map(u64::to_le_bytes).collect()
}

/// An address, and behind it a bitmap for each that follows.
fn relr(all: &[(u64, u64)]) -> Vec<u8> {
    let Some((first, _)) = all.first() else { return vec![1, 0, 0, 0, 0, 0, 0, 0] };
    let mut words = vec![*first];
    let mut base = first + 8;
    let mut bits = 0_u64;
    for (location, _) in &all[1..] {
        while location - base >= 63 * 8 {
            words.push(bits << 1 | 1);
            (base, bits) = (base + 63 * 8, 0);
        }
        bits |= 1 << ((location - base) / 8);
    }
    words.push(bits << 1 | 1);
    words.resize(all.len() + 1, 1);
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}
