//! Compilers for GPUs that packages bring along and run on the GPU's machine: ptxas (Triton, JAX) and NVRTC. Each can
//! compile for the architectures of its release, which it says in its data.

use std::io;

use kiln_plan::gpu::CudaRelease;
use memchr::memmem::Finder;

use crate::cubin::RELEASE;
use crate::elf::{Elf, Section};
use crate::listing::{Depth, FatbinError, Found, Listing};
use crate::read::list_with;
use crate::source::{Source, WINDOW, Window};

/// Bytes of a release: `12.10`.
const LONGEST: usize = 8;

/// Lists the GPU code of a file with a name, by which compilers are told. Nothing where the file has none and is none.
pub fn list_named<S: Source + ?Sized>(path: &str, source: &S, depth: Depth) -> Result<Option<Listing>, FatbinError> {
    let listing = list_with(source, depth)?;
    if !is_compiler(path) {
        return Ok(listing);
    }
    let Some(release) = release(source)? else { return Ok(listing) };
    let mut listing = listing.unwrap_or_else(|| Listing::new(Found::Compiler, depth));
    listing.compiler = Some(release);
    Ok(Some(listing))
}

/// The CUDA release that a compiler says that it is of.
fn release<S: Source + ?Sized>(source: &S) -> io::Result<Option<CudaRelease>> {
    let mut window = Window::new(source)?;
    let Ok(elf) = Elf::read(&mut window) else { return Ok(None) };
    for section in elf.named(".rodata") {
        if let Some(release) = said(&mut window, section)? {
            return Ok(Some(release));
        }
    }
    Ok(None)
}

/// Tells if a file is called like a compiler: `ptxas`, `ptxas-blackwell`, `libnvrtc.so.12`.
fn is_compiler(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name == "ptxas"
        || name.starts_with("ptxas-")
        || name.starts_with("libnvrtc.so")
        || name.starts_with("libnvrtc-") && !name.contains("builtins") && name.contains(".so")
}

fn said<S: Source + ?Sized>(window: &mut Window<'_, S>, section: &Section) -> io::Result<Option<CudaRelease>> {
    let finder = Finder::new(RELEASE);
    let (mut at, end) = (section.offset, section.range().end);
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(WINDOW).min(WINDOW);
        let bytes = window.bytes(at, most)?;
        if let Some(found) = finder.find(bytes) {
            let text = window.bytes(at + (found + RELEASE.len()) as u64, LONGEST)?;
            let text = String::from_utf8_lossy(text);
            let release = text.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default();
            return Ok(release.parse().ok());
        }
        if bytes.len() <= RELEASE.len() {
            break;
        }
        at += (bytes.len() - RELEASE.len()) as u64;
    }
    Ok(None)
}
