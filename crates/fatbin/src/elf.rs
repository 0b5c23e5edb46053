//! As much of ELF as is needed to find sections (System V ABI, "Object Files"; 64-bit, little-endian).

use std::io;

use crate::source::{Fields, Source, Window};

/// Sections that a file may have: far above what linkers write.
const MOST_SECTIONS: u64 = 1 << 16;
/// Bytes of a section's name that are of interest.
const NAME: usize = 64;
/// Bytes of the file's header, of a section's and of a segment's.
pub(crate) const HEADER: usize = 64;
pub(crate) const SECTION_HEADER: u64 = 64;
pub(crate) const PROGRAM_HEADER: u64 = 56;
/// Places of fields in a file's header and in a section's (System V ABI, "ELF Header", "Sections").
pub(crate) mod field {
    /// `e_phoff`, `e_shoff`, `e_phnum`.
    pub(crate) const PROGRAM_HEADERS: u64 = 32;
    pub(crate) const SECTION_HEADERS: u64 = 40;
    pub(crate) const PROGRAM_HEADER_COUNT: u64 = 56;
    /// `sh_addr`, `sh_offset`, `sh_size`, `sh_info`, `sh_addralign`.
    pub(crate) const ADDRESS: u64 = 16;
    pub(crate) const OFFSET: u64 = 24;
    pub(crate) const SIZE: u64 = 32;
    pub(crate) const INFO: u64 = 44;
    pub(crate) const ALIGNMENT: u64 = 48;
}
/// Types of sections with relocations, `SHT_RELA` and `SHT_REL`, and bytes of an entry of the first.
pub(crate) const RELA: u32 = 4;
pub(crate) const REL: u32 = 9;
pub(crate) const RELA_ENTRY: u64 = 24;
/// `PN_XNUM`: there are more program headers than fit their count.
const TOO_MANY_SEGMENTS: u16 = 0xffff;
/// `SHT_PROGBITS` and `SHT_NOBITS`: content of the program's own, and none in the file.
const PROGBITS: u32 = 1;
pub(crate) const NOBITS: u32 = 8;
/// `SHF_ALLOC`.
pub(crate) const ALLOCATED: u64 = 2;
/// `SHF_EXECINSTR`.
const EXECUTABLE: u64 = 4;

/// The machine of a file's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Machine {
    /// x86-64.
    #[serde(rename = "x86-64")]
    X86_64,
    /// aarch64.
    #[serde(rename = "aarch64")]
    Aarch64,
    /// A GPU: the file is a cubin.
    #[serde(rename = "cuda")]
    Cuda,
    /// Something else, by its number.
    #[serde(untagged)]
    Other(u16),
}

impl Machine {
    /// The machine of an `e_machine`.
    pub fn from_number(number: u16) -> Self {
        match number {
            62 => Self::X86_64,
            183 => Self::Aarch64,
            190 => Self::Cuda,
            other => Self::Other(other),
        }
    }
}

/// A file that is no ELF that can be read here.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// Another format altogether.
    #[error("is no ELF file")]
    NotElf,
    /// 32 bits or big-endian.
    #[error("is an ELF file of 32 bits or for a big-endian processor")]
    Unsupported,
    /// Headers that lead out of the file or contradict one another.
    #[error("is a damaged ELF file: {0}")]
    Damaged(&'static str),
    /// Reading.
    #[error("cannot be read")]
    Io(#[from] io::Error),
}

/// A section of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, as far as 64 bytes go.
    pub name: String,
    /// `sh_type`.
    pub kind: u32,
    /// `sh_flags`.
    pub flags: u64,
    /// Its address; 0 where it is not loaded.
    pub address: u64,
    /// The position of its content in the file.
    pub offset: u64,
    /// Bytes of content in the file.
    pub size: u64,
    /// `sh_link`.
    pub link: u32,
    /// The position of its header in the file.
    pub header: u64,
}

/// A range to be mapped, or another instruction: an entry of the program header table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// `p_type`.
    pub kind: u32,
    /// `p_flags`.
    pub flags: u32,
    /// Its position in the file.
    pub offset: u64,
    /// Its address.
    pub address: u64,
    /// `p_paddr`, which nobody reads.
    pub physical: u64,
    /// Bytes in the file.
    pub size: u64,
    /// Bytes in memory.
    pub memory: u64,
    /// Offset and address are the same modulo this.
    pub alignment: u64,
}

/// The headers of an ELF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// The machine of its code.
    pub machine: Machine,
    /// `e_flags`: for cubins, what architecture they are for.
    pub flags: u32,
    /// `e_ident[EI_ABIVERSION]`: for cubins, how to read the flags.
    pub abi: u8,
    /// `e_type`.
    pub kind: u16,
    /// The position of the program headers in the file.
    pub program_headers: u64,
    /// Its segments.
    pub segments: Vec<Segment>,
    /// The position of the section headers in the file.
    pub section_headers: u64,
    /// Its sections.
    pub sections: Vec<Section>,
}

impl Elf {
    /// Tells if it is a program at a fixed address (`ET_EXEC`), whose pointers no relocation names.
    pub(crate) fn is_fixed(&self) -> bool {
        self.kind == 2
    }

    /// Reads the headers of a file.
    pub fn read<S: Source + ?Sized>(source: &mut Window<'_, S>) -> Result<Self, ElfError> {
        let (elf, header) = Self::header(source)?;
        let fields = Fields(&header);
        let (size, count, names) = (fields.u16(58), fields.u16(60), fields.u16(62));
        let sections = match elf.section_headers {
            0 => Vec::new(),
            at if u64::from(size) == SECTION_HEADER => sections(source, at, u64::from(count), u64::from(names))?,
            _ => return Err(ElfError::Damaged("its section headers have an unknown size")),
        };
        Ok(Self { sections, ..elf })
    }

    /// Reads as much of a file's headers as its loader does: no sections, which may be stripped.
    pub fn read_loaded<S: Source + ?Sized>(source: &mut Window<'_, S>) -> Result<Self, ElfError> {
        Ok(Self::header(source)?.0)
    }

    fn header<S: Source + ?Sized>(source: &mut Window<'_, S>) -> Result<(Self, [u8; HEADER]), ElfError> {
        let Some(header) = source.array::<HEADER>(0)? else { return Err(ElfError::NotElf) };
        if !header.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        if header[4..6] != [2, 1] {
            return Err(ElfError::Unsupported);
        }
        let fields = Fields(&header);
        let (program_headers, size) = (fields.u64(32), fields.u16(54));
        let segments = match fields.u16(56) {
            0 => Vec::new(),
            count if u64::from(size) == PROGRAM_HEADER && count != TOO_MANY_SEGMENTS => {
                segments(source, program_headers, u64::from(count))?
            }
            _ => return Err(ElfError::Damaged("its program headers have an unknown size or number")),
        };
        let elf = Self {
            machine: Machine::from_number(fields.u16(18)),
            flags: fields.u32(48),
            abi: header[8],
            kind: fields.u16(16),
            program_headers,
            segments,
            section_headers: fields.u64(40),
            sections: Vec::new(),
        };
        Ok((elf, header))
    }

    /// The position in the file of an address: those that are mapped and lie in the file.
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        let loaded = self.segments.iter().filter(|segment| segment.is_loaded());
        loaded
            .filter_map(|segment| address.checked_sub(segment.address).map(|into| (segment, into)))
            .find(|(segment, into)| *into < segment.size)
            .and_then(|(segment, into)| segment.offset.checked_add(into))
    }

    /// Sections that have content and this name.
    pub fn named<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Section> {
        self.sections.iter().filter(move |section| section.name == name && section.has_content())
    }
}

impl Segment {
    /// `PT_LOAD`: mapped into memory.
    pub const LOAD: u32 = 1;
    /// `PT_DYNAMIC`: what the loader reads.
    pub const DYNAMIC: u32 = 2;
    /// `PT_INTERP`: the loader of a program.
    pub const INTERPRETER: u32 = 3;
    /// `PT_NOTE`: notes, such as the build's id.
    pub const NOTE: u32 = 4;
    /// `PT_PHDR`: the program headers themselves.
    pub const PROGRAM_HEADERS: u32 = 6;

    /// Tells if it is mapped into memory.
    pub fn is_loaded(&self) -> bool {
        self.kind == Self::LOAD
    }

    /// Tells if an address lies in its memory.
    pub(crate) fn holds(&self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|into| into < self.memory)
    }
}

impl Section {
    /// The range of its content in the file.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.offset..self.offset + self.size
    }

    /// The address of a position of its content.
    pub(crate) fn address_of(&self, position: u64) -> u64 {
        self.address.wrapping_add(position.wrapping_sub(self.offset))
    }

    /// The range of its addresses.
    pub fn memory(&self) -> std::ops::Range<u64> {
        self.address..self.address.saturating_add(self.size)
    }

    /// Tells if it holds instructions of the processor.
    pub fn is_executable(&self) -> bool {
        self.flags & EXECUTABLE != 0
    }

    /// Tells if it is part of a program's memory.
    pub fn is_loaded(&self) -> bool {
        self.flags & ALLOCATED != 0
    }

    /// Tells if it holds data of the program's own that is loaded, and no instructions.
    pub(crate) fn is_data(&self) -> bool {
        self.kind == PROGBITS && self.is_loaded() && self.has_content() && !self.is_executable()
    }

    /// Tells if anything of it is in the file.
    pub fn has_content(&self) -> bool {
        self.kind != 0 && self.kind != NOBITS && self.size > 0
    }
}

fn sections<S: Source + ?Sized>(
    source: &mut Window<'_, S>,
    at: u64,
    count: u64,
    names: u64,
) -> Result<Vec<Section>, ElfError> {
    let header = |source: &mut Window<'_, S>, index: u64| -> Result<[u8; HEADER], ElfError> {
        let position =
            at.checked_add(index * SECTION_HEADER).ok_or(ElfError::Damaged("its section headers are nowhere"))?;
        source.array(position)?.ok_or(ElfError::Damaged("its section headers are cut off"))
    };
    // Files with very many sections keep the numbers in the first header.
    let first = header(source, 0)?;
    let count = if count == 0 { Fields(&first).u64(32) } else { count };
    let names = if names == 0xffff { u64::from(Fields(&first).u32(40)) } else { names };
    if count > MOST_SECTIONS || names >= count.max(1) {
        return Err(ElfError::Damaged("it has more sections than any linker writes"));
    }
    let strings = header(source, names)?;
    let (strings_at, strings_size) = (Fields(&strings).u64(24), Fields(&strings).u64(32));
    let (mut sections, mut names) = (Vec::new(), Vec::new());
    for index in 0..count {
        let bytes = header(source, index)?;
        let fields = Fields(&bytes);
        names.push(u64::from(fields.u32(0)));
        let section = Section {
            name: String::new(),
            kind: fields.u32(4),
            flags: fields.u64(8),
            address: fields.u64(16),
            offset: fields.u64(24),
            size: fields.u64(32),
            link: fields.u32(40),
            header: at + index * SECTION_HEADER,
        };
        let end = section.offset.checked_add(section.size);
        if section.has_content() && end.is_none_or(|end| end > source.size()) {
            return Err(ElfError::Damaged("a section leads out of the file"));
        }
        sections.push(section);
    }
    // Headers and names lie far apart, so that reading them alternately would read everything again and again.
    for (section, name) in sections.iter_mut().zip(names) {
        if let Some(position) = strings_at.checked_add(name).filter(|_| name < strings_size) {
            section.name = text(source.bytes(position, NAME)?);
        }
    }
    Ok(sections)
}

fn segments<S: Source + ?Sized>(source: &mut Window<'_, S>, at: u64, count: u64) -> Result<Vec<Segment>, ElfError> {
    const CUT_OFF: ElfError = ElfError::Damaged("its program headers are cut off");
    let mut segments = Vec::new();
    for index in 0..count {
        let position = at.checked_add(index * PROGRAM_HEADER).ok_or(CUT_OFF)?;
        let bytes: [u8; PROGRAM_HEADER as usize] = source.array(position)?.ok_or(CUT_OFF)?;
        let fields = Fields(&bytes);
        segments.push(Segment {
            kind: fields.u32(0),
            flags: fields.u32(4),
            offset: fields.u64(8),
            address: fields.u64(16),
            physical: fields.u64(24),
            size: fields.u64(32),
            memory: fields.u64(40),
            alignment: fields.u64(48),
        });
    }
    Ok(segments)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
