//! A wheel with other content in some of its files: everything else is copied as it is stored, and `RECORD` and `WHEEL` say
//! what is true of the new one (PEP 427).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use kiln_inflate::{Old, Replacement, Summed, deflate};
use kiln_plan::parallel;
use libdeflater::{CompressionLvl, Compressor};
use rawzip::{CompressionMethod, DataDescriptorOutput, ReaderAt, ZipArchiveWriter};
use sha2::{Digest as _, Sha256};

use crate::archive::{Entry, Method};
use crate::install::{InstallError, Wheel};
use crate::name::WheelName;
use crate::record::{self, Row};

/// Bytes that are copied at once.
const CHUNK: u64 = 1 << 20;
/// Bytes that are inflated and digested at once.
const BUFFER: usize = 64 << 10;

/// Why a wheel cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RepackError {
    /// Its metadata.
    #[error(transparent)]
    Wheel(#[from] InstallError),
    /// A file that is not what the archive says.
    #[error("its file `{0}` does not have the content that its CRC-32 says")]
    Damaged(String),
    /// Reading or writing.
    #[error("cannot be written")]
    Io(#[from] io::Error),
    /// The archive: names that are too long, and the like.
    #[error("cannot be written: {0}")]
    Zip(#[from] rawzip::Error),
}

/// How a wheel is written anew.
pub struct Repack<'a, C> {
    /// By the path of the file.
    pub replaced: &'a BTreeMap<String, Replacement<'a, C>>,
    /// Paths of files that are left out.
    pub left_out: &'a BTreeSet<String>,
    /// What follows the number of the build tag: `kiln90`.
    pub tag: &'a str,
    /// A line for `WHEEL`: key and value.
    pub note: (&'a str, &'a str),
    /// Threads that compress.
    pub threads: usize,
    /// Told of bytes as they are written; an error ends everything.
    pub advance: &'a dyn Fn(u64) -> io::Result<()>,
}

impl WheelName {
    /// The file name of a wheel that was made out of the one of this file name, so that it never passes for it.
    pub fn retagged(&self, file: &str, tag: &str) -> String {
        let mut parts: Vec<String> = file.split('-').map(str::to_owned).collect();
        let build = self.retagged_build(tag);
        match self.build {
            Some(_) if parts.len() == 6 => parts[2] = build,
            _ => parts.insert(2.min(parts.len()), build),
        }
        parts.join("-")
    }

    fn retagged_build(&self, tag: &str) -> String {
        match &self.build {
            Some((number, rest)) => format!("{number}{rest}{tag}"),
            None => format!("1{tag}"),
        }
    }
}

impl<C: ReaderAt + Sync> Repack<'_, C> {
    /// Writes the wheel.
    pub fn write<R: ReaderAt + Sync>(&self, wheel: &Wheel<R>, out: impl Write) -> Result<(), RepackError> {
        let (record, about) = (wheel.dist_info_file("RECORD"), wheel.dist_info_file("WHEEL"));
        let mut rows = self.rows(wheel, &record)?;
        let mut zip = ZipArchiveWriter::new(out);
        let stays = |entry: &&Entry| entry.path != record && !self.left_out.contains(&entry.path);
        for entry in wheel.archive.entries().iter().filter(stays) {
            if let Some(replacement) = self.replaced.get(&entry.path) {
                let summed = self.deflated(&mut zip, entry, replacement, wheel.archive.reader())?;
                replace(&mut rows, record::summed(&entry.path, &summed.sha256, summed.size));
            } else if entry.path == about {
                let text = self.noted(&wheel.metadata_file("WHEEL")?, &wheel.name);
                small(&mut zip, entry, text.as_bytes())?;
                replace(&mut rows, record::row(&entry.path, text.as_bytes()));
            } else {
                self.copied(&mut zip, entry, wheel.archive.reader())?;
            }
        }
        // Last, as PEP 427 recommends.
        if let Some(entry) = wheel.archive.entry(&record) {
            small(&mut zip, entry, record::in_order(&rows).as_bytes())?;
        }
        zip.finish()?.flush()?;
        Ok(())
    }

    /// The rows of what stays, in the order of the old `RECORD`, each file once: of what is copied, computed anew, since the
    /// old one may be wrong.
    fn rows<R: ReaderAt + Sync>(&self, wheel: &Wheel<R>, record: &str) -> Result<Vec<Row>, RepackError> {
        let stays = |entry: &&Entry| !self.left_out.contains(&entry.path);
        let mut entries: Vec<&Entry> = wheel.archive.entries().iter().filter(stays).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.size));
        let computed = parallel::each(&entries, self.threads, |entry| {
            // Signatures of the list have no line with a hash in it, as itself has none.
            let unknown = entry.path.starts_with(record) || self.replaced.contains_key(&entry.path);
            Ok::<_, RepackError>(if unknown {
                record::bare(&entry.path)
            } else {
                row_of(wheel.archive.reader(), entry)?
            })
        })?;
        let mut true_rows: BTreeMap<String, Row> = computed.into_iter().map(|row| (row.path.clone(), row)).collect();
        let mut rows: Vec<Row> = wheel.record()?.iter().filter_map(|row| true_rows.remove(&row.path)).collect();
        rows.extend(true_rows.into_values());
        Ok(rows)
    }

    fn noted(&self, about: &[u8], name: &WheelName) -> String {
        let text = String::from_utf8_lossy(about);
        let (key, value) = self.note;
        let kept = text.lines().filter(|line| !line.is_empty() && !line.to_ascii_lowercase().starts_with("build:"));
        let new = [format!("Build: {}", name.retagged_build(self.tag)), format!("{key}: {value}")];
        kept.map(str::to_owned).chain(new).map(|line| line + "\n").collect()
    }

    fn deflated<W: Write>(
        &self,
        zip: &mut ZipArchiveWriter<W>,
        entry: &Entry,
        replacement: &Replacement<'_, C>,
        reader: &(impl ReaderAt + Sync),
    ) -> Result<Summed, RepackError> {
        let (mut out, _) = begin(zip, entry, Method::Deflated)?;
        let old = Old { reader, offset: entry.offset };
        let summed = deflate(replacement, &old, &mut out, self.threads, self.advance)?;
        out.finish(DataDescriptorOutput::new(summed.crc, summed.size))?;
        Ok(summed)
    }

    fn copied<W: Write>(
        &self,
        zip: &mut ZipArchiveWriter<W>,
        entry: &Entry,
        reader: &impl ReaderAt,
    ) -> Result<(), RepackError> {
        let (mut out, _) = begin(zip, entry, entry.method)?;
        let mut buffer = vec![0; CHUNK.min(entry.compressed) as usize];
        let mut at = 0;
        while at < entry.compressed {
            let taken = CHUNK.min(entry.compressed - at);
            let bytes = &mut buffer[..taken as usize];
            reader.read_exact_at(bytes, entry.offset + at)?;
            out.write_all(bytes)?;
            at += taken;
        }
        (self.advance)(entry.size)?;
        out.finish(DataDescriptorOutput::new(entry.crc, entry.size))?;
        Ok(())
    }
}

/// The row of a file, which is inflated for it.
fn row_of(reader: &impl ReaderAt, entry: &Entry) -> Result<Row, RepackError> {
    let stored = Stored { reader, offset: entry.offset, left: entry.compressed };
    let mut content: Box<dyn Read> = match entry.method {
        Method::Stored => Box::new(stored),
        Method::Deflated => Box::new(flate2::read::DeflateDecoder::new(io::BufReader::with_capacity(BUFFER, stored))),
    };
    let (mut sha256, mut crc, mut size) = (Sha256::new(), crc32fast::Hasher::new(), 0);
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = content.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        sha256.update(&buffer[..read]);
        crc.update(&buffer[..read]);
        size += read as u64;
    }
    if (size, crc.finalize()) != (entry.size, entry.crc) {
        return Err(RepackError::Damaged(entry.path.clone()));
    }
    Ok(record::summed(&entry.path, &sha256.finalize(), size))
}

/// The bytes of a file as they are stored.
struct Stored<'a, R> {
    reader: &'a R,
    offset: u64,
    left: u64,
}

impl<R: ReaderAt> Read for Stored<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(buffer.len()).min(buffer.len());
        let read = self.reader.read_at(&mut buffer[..most], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

type Begun<'a, W> = (rawzip::ZipEntryWriter<'a, W>, rawzip::ZipDataWriterConfig);

fn begin<'a, W: Write>(
    zip: &'a mut ZipArchiveWriter<W>,
    entry: &Entry,
    method: Method,
) -> Result<Begun<'a, W>, RepackError> {
    let method = match method {
        Method::Stored => CompressionMethod::STORE,
        Method::Deflated => CompressionMethod::DEFLATE,
    };
    let mode = if entry.executable { 0o100_755 } else { 0o100_644 };
    Ok(zip.new_file(entry.path.as_str()).compression_method(method).unix_permissions(mode).start()?)
}

fn small<W: Write>(zip: &mut ZipArchiveWriter<W>, entry: &Entry, content: &[u8]) -> Result<(), RepackError> {
    let (mut out, _) = begin(zip, entry, Method::Deflated)?;
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut bytes = vec![0; compressor.deflate_compress_bound(content.len())];
    let written = compressor.deflate_compress(content, &mut bytes).map_err(io::Error::other)?;
    out.write_all(&bytes[..written])?;
    out.finish(DataDescriptorOutput::new(crc32fast::hash(content), content.len() as u64))?;
    Ok(())
}

fn replace(rows: &mut Vec<Row>, new: Row) {
    match rows.iter_mut().find(|row| row.path == new.path) {
        Some(row) => *row = new,
        None => rows.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::WheelBuilder;
    use kiln_inflate::Blocks;

    fn open(file_name: &str, bytes: &[u8]) -> Wheel<Vec<u8>> {
        Wheel::open(file_name.parse().unwrap(), bytes.to_vec(), bytes.len() as u64).unwrap()
    }

    fn repacked(threads: usize) -> Vec<u8> {
        let old = WheelBuilder::new("ops", "1.0")
            .tag("cp312-cp312-linux_x86_64")
            .file_with("ops/_C.so", true, true, [7; 50_000])
            .file_with("ops/stored.bin", false, false, "as it is")
            .file_with("ops/sm_80.cubin", true, false, "for another GPU")
            .file("ops/__init__.py", "import ops._C");
        let wheel = open(&old.file_name(), &old.finish());
        let (content, kept, blocks) = ([9; 3_000_000].as_slice(), Vec::new(), Blocks::default());
        let replacement = Replacement { content, size: content.len() as u64, kept, blocks: &blocks };
        let replaced = BTreeMap::from([("ops/_C.so".to_owned(), replacement)]);
        let mut out = Vec::new();
        let note = ("Pruned-To", "sm_90");
        let left_out = BTreeSet::from(["ops/sm_80.cubin".to_owned()]);
        let repack =
            Repack { replaced: &replaced, left_out: &left_out, tag: "kiln90", note, threads, advance: &|_| Ok(()) };
        repack.write(&wheel, &mut out).unwrap();
        out
    }

    #[test]
    fn a_wheel_with_other_content_is_a_wheel_whose_record_is_true() {
        let bytes = repacked(2);
        let wheel = open("ops-1.0-1kiln90-cp312-cp312-linux_x86_64.whl", &bytes);
        for entry in wheel.archive.entries() {
            let content = wheel.archive.read(entry, 10 << 20).unwrap();
            let row = wheel.record().unwrap().into_iter().find(|row| row.path == entry.path).unwrap();
            if entry.path != "ops-1.0.dist-info/RECORD" {
                assert_eq!(row, record::row(&entry.path, &content));
            }
        }
        assert!(wheel.record().unwrap().iter().all(|row| row.path != "ops/sm_80.cubin"));
        assert!(wheel.archive.entry("ops/sm_80.cubin").is_none());
        let about = wheel.archive.read(wheel.archive.entry("ops-1.0.dist-info/WHEEL").unwrap(), 1000).unwrap();
        let about = String::from_utf8(about).unwrap();
        assert!(about.ends_with("Tag: cp312-cp312-linux_x86_64\nBuild: 1kiln90\nPruned-To: sm_90\n"), "{about}");
        let executable = |path: &str| wheel.archive.entry(path).unwrap().executable;
        assert!(executable("ops/_C.so") && !executable("ops/__init__.py"));
        assert_eq!(wheel.archive.entry("ops/stored.bin").unwrap().method, Method::Stored);
    }

    #[test]
    fn a_record_that_lies_is_told_anew_each_file_once() {
        let lies = "ops/__init__.py,sha256=AAAA,3\nops/_C.so,sha256=BBBB,1\nops/_C.so,sha256=CCCC,2\nops/gone.py,,\n\
                    ops-1.0.dist-info/RECORD,,\n";
        let old = WheelBuilder::new("ops", "1.0")
            .tag("cp312-cp312-linux_x86_64")
            .file_with("ops/_C.so", true, true, [7; 50_000])
            .file_with("ops/data.bin", true, false, [8; 300_000])
            .file("ops/__init__.py", "import ops._C")
            .record(lies);
        let wheel = open(&old.file_name(), &old.finish());
        let (content, kept, blocks) = ([9; 3_000].as_slice(), Vec::new(), Blocks::default());
        let replacement = Replacement { content, size: content.len() as u64, kept, blocks: &blocks };
        let (replaced, left_out) = (BTreeMap::from([("ops/_C.so".to_owned(), replacement)]), BTreeSet::new());
        let note = ("Pruned-To", "sm_90");
        let repack =
            Repack { replaced: &replaced, left_out: &left_out, tag: "kiln90", note, threads: 2, advance: &|_| Ok(()) };
        let mut bytes = Vec::new();
        repack.write(&wheel, &mut bytes).unwrap();
        let new = open("ops-1.0-1kiln90-cp312-cp312-linux_x86_64.whl", &bytes);
        let rows = new.record().unwrap();
        assert_eq!(rows.len(), new.archive.entries().len());
        for entry in new.archive.entries().iter().filter(|entry| !entry.path.ends_with("RECORD")) {
            let content = new.archive.read(entry, 10 << 20).unwrap();
            assert!(rows.contains(&record::row(&entry.path, &content)), "{}", entry.path);
        }
    }

    #[test]
    fn the_bytes_do_not_depend_on_the_number_of_threads() {
        assert!(repacked(1) == repacked(5));
    }

    #[test]
    fn the_file_name_never_passes_for_the_old_one() {
        let retagged = |file: &str| file.parse::<WheelName>().unwrap().retagged(file, "kiln90");
        assert_eq!(retagged("a-1.0-cp312-cp312-linux_x86_64.whl"), "a-1.0-1kiln90-cp312-cp312-linux_x86_64.whl");
        assert_eq!(retagged("a-1.0-3-cp312-cp312-linux_x86_64.whl"), "a-1.0-3kiln90-cp312-cp312-linux_x86_64.whl");
    }
}
