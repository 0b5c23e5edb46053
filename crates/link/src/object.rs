//! What the dynamic loader reads of a file: names of libraries, where to look for them, and versions of symbols.
//!
//! Everything is found as the loader finds it, by program headers and addresses (System V ABI, "Program Loading and
//! Dynamic Linking"; versions: Linux Standard Base, "Symbol Versioning"), since section headers may have been stripped.

use kiln_fatbin::{ElfError, Machine, Source};
use serde::{Deserialize, Serialize};

use crate::bytes::{Image, Place, number};
use crate::hint;

/// `e_type` of programs at a fixed address, and of everything else that is loaded.
const PROGRAM: u16 = 2;
const SHARED: u16 = 3;
/// Bytes of an entry of the dynamic table, and how many there may be: far above what linkers write.
const ENTRY: u64 = 16;
const MOST_ENTRIES: u64 = 1 << 12;
/// Directories that are taken of a path.
const MOST_DIRECTORIES: usize = 256;
/// Versions that a file may require or define.
const MOST_VERSIONS: usize = 1 << 14;
/// `DF_1_NODEFLIB` and `DF_1_PIE` of `DT_FLAGS_1`.
const NODEFLIB: u64 = 0x800;
const PIE: u64 = 0x0800_0000;
/// `VER_FLG_WEAK`.
const WEAK: u16 = 2;

/// A version of symbols that a file needs of a library.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// The library, by the name it is needed under.
    pub library: String,
    /// The version, such as `GLIBC_2.34`.
    pub version: String,
    /// Whether the loader only warns where it is not there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub weak: bool,
}

/// A dynamically linked file, as the loader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// What its code is for.
    pub machine: Machine,
    /// Its name among libraries (`DT_SONAME`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soname: Option<String>,
    /// Libraries that it needs (`DT_NEEDED`), in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needed: Vec<String>,
    /// Directories of `DT_RPATH` as written; those without a name, which mean the working directory, are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rpath: Vec<String>,
    /// Directories of `DT_RUNPATH`, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runpath: Vec<String>,
    /// The loader that it asks for (`PT_INTERP`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<String>,
    /// Versions that it needs (`DT_VERNEED`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<Requirement>,
    /// Versions that it defines (`DT_VERDEF`), its base version, which is its name, among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provides: Vec<String>,
    /// Whether it is for others to load, rather than a program.
    #[serde(default)]
    pub is_library: bool,
    /// Whether the system's directories are left out for what it needs (`DF_1_NODEFLIB`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nodeflib: bool,
}

/// The dynamic table: entries that are of interest, by what they say.
#[derive(Default)]
struct Dynamic {
    needed: Vec<u64>,
    soname: Option<u64>,
    rpath: Option<u64>,
    runpath: Option<u64>,
    strings: Option<u64>,
    flags: u64,
    requires: Option<u64>,
    provides: Option<u64>,
}

impl Object {
    /// Reads a file: its headers and what they point at, a few kilobytes. Nothing where the file is no ELF file, has 32
    /// bits or the other byte order, or is not dynamically linked (object files, static libraries and programs, cubins,
    /// files that hold nothing but debugging information).
    ///
    /// # Errors
    ///
    /// [`ElfError::Damaged`] where headers lead out of the file or hold more than any linker writes.
    pub fn read<S: Source + ?Sized>(source: &S) -> Result<Option<Self>, ElfError> {
        let Some(mut image) = Image::open(source)? else { return Ok(None) };
        let (kind, machine) = (image.elf.kind, image.elf.machine);
        if (kind != PROGRAM && kind != SHARED) || machine == Machine::Cuda {
            return Ok(None);
        }
        let Some(place) = image.dynamic else { return Ok(None) };
        let dynamic = Dynamic::read(&mut image, place)?;
        let interpreter = match image.interpreter {
            Some(place) => Some(image.text(place.offset)?),
            None => None,
        };
        let soname = dynamic.name(&mut image, dynamic.soname)?;
        let mut needed = Vec::new();
        for name in &dynamic.needed {
            needed.extend(dynamic.name(&mut image, Some(*name))?);
        }
        let is_program = interpreter.is_some() && soname.is_none();
        Ok(Some(Self {
            machine,
            needed,
            rpath: split(dynamic.name(&mut image, dynamic.rpath)?),
            runpath: split(dynamic.name(&mut image, dynamic.runpath)?),
            requires: dynamic.requires(&mut image)?,
            provides: dynamic.provides(&mut image)?,
            // libc.so.6 is a library that can be run: what counts is that it has a name.
            is_library: kind == SHARED && dynamic.flags & PIE == 0 && !is_program,
            nodeflib: dynamic.flags & NODEFLIB != 0,
            soname,
            interpreter,
        }))
    }
}

impl Object {
    /// Returns the major version of CUDA that it is linked with or part of, as far as names of libraries say.
    pub fn cuda(&self) -> Option<u8> {
        let names = || self.needed.iter().chain(&self.soname);
        let runtime = names().find_map(|name| name.strip_prefix("libcudart.so.")?.split('.').next()?.parse().ok());
        runtime.or_else(|| hint::Cuda::of(names()).map(hint::Cuda::major))
    }
}

impl Dynamic {
    fn read<S: Source + ?Sized>(image: &mut Image<'_, S>, place: Place) -> Result<Self, ElfError> {
        let mut dynamic = Self::default();
        for index in 0..place.size / ENTRY {
            if index >= MOST_ENTRIES {
                return Err(ElfError::Damaged("its dynamic table has no end"));
            }
            let entry = image.array::<16>(place.offset, index * ENTRY)?;
            let (tag, value) = (number(&entry, 0..8), number(&entry, 8..16));
            match tag {
                0 => break,
                1 => dynamic.needed.push(value),
                5 => dynamic.strings = Some(value),
                14 => dynamic.soname = Some(value),
                15 => dynamic.rpath = Some(value),
                29 => dynamic.runpath = Some(value),
                0x6fff_fffb => dynamic.flags = value,
                0x6fff_fffc => dynamic.provides = Some(value),
                0x6fff_fffe => dynamic.requires = Some(value),
                _ => {}
            }
        }
        Ok(dynamic)
    }

    /// A string of the dynamic string table.
    fn name<S: Source + ?Sized>(&self, image: &mut Image<'_, S>, at: Option<u64>) -> Result<Option<String>, ElfError> {
        let Some(at) = at else { return Ok(None) };
        let strings = self.strings.ok_or(ElfError::Damaged("it has names and no table of them"))?;
        let address = strings.checked_add(at).ok_or(ElfError::Damaged("a name is nowhere"))?;
        let offset = image.offset(address)?;
        image.text(offset).map(Some)
    }

    fn version<S: Source + ?Sized>(&self, image: &mut Image<'_, S>, at: u64) -> Result<String, ElfError> {
        Ok(self.name(image, Some(at))?.unwrap_or_default())
    }

    /// A list of libraries, each with a list of versions; both are chained by distances, of which zero is the end.
    fn requires<S: Source + ?Sized>(&self, image: &mut Image<'_, S>) -> Result<Vec<Requirement>, ElfError> {
        let (mut required, mut steps) = (Vec::new(), 0);
        let mut library_at = self.requires;
        while let Some(at) = library_at {
            let entry = image.at::<16>(at)?;
            let library = self.version(image, number(&entry, 4..8))?;
            let mut version_at = step(at, number(&entry, 8..12));
            while let Some(at) = version_at {
                count(&mut steps)?;
                let entry = image.at::<16>(at)?;
                let weak = number(&entry, 4..6) as u16 & WEAK != 0;
                let version = self.version(image, number(&entry, 8..12))?;
                image.spend(library.len())?;
                required.push(Requirement { library: library.clone(), version, weak });
                version_at = step(at, number(&entry, 12..16));
            }
            count(&mut steps)?;
            library_at = step(at, number(&entry, 12..16));
        }
        Ok(required)
    }

    /// A list of versions, each with its name and those of the versions that it follows on.
    fn provides<S: Source + ?Sized>(&self, image: &mut Image<'_, S>) -> Result<Vec<String>, ElfError> {
        let (mut provided, mut steps) = (Vec::new(), 0);
        let mut version_at = self.provides;
        while let Some(at) = version_at {
            count(&mut steps)?;
            let entry = image.at::<20>(at)?;
            if let Some(name_at) = step(at, number(&entry, 12..16)) {
                let name = image.at::<8>(name_at)?;
                provided.push(self.version(image, number(&name, 0..4))?);
            }
            version_at = step(at, number(&entry, 16..20));
        }
        Ok(provided)
    }
}

/// Where a chain goes on; nowhere at its end.
fn step(at: u64, distance: u64) -> Option<u64> {
    (distance != 0).then(|| at.saturating_add(distance))
}

fn count(steps: &mut usize) -> Result<(), ElfError> {
    *steps += 1;
    if *steps > MOST_VERSIONS { Err(ElfError::Damaged("its versions have no end")) } else { Ok(()) }
}

fn split(path: Option<String>) -> Vec<String> {
    let directories = path.iter().flat_map(|path| path.split(':')).filter(|path| !path.is_empty());
    directories.take(MOST_DIRECTORIES).map(str::to_owned).collect()
}
