//! Archives of OCI layouts: tars that are written once, from the first byte to the last, so that they may go to a pipe.

use std::io::Write;

use kiln_plan::digest::Digest;
use kiln_plan::event::Work;

use crate::error::OciError;
use crate::header::{self, Member};
use crate::image::{Index, to_json};
use crate::layout::{BlobSource, Contents, VERSION, copy};

/// Writes an archive of a layout with these images and, beside it, further files. Layers go in as they are, streamed
/// from their recipes.
pub fn write(
    mut out: impl Write,
    blobs: &dyn BlobSource,
    contents: Contents,
    beside: &[(&str, &[u8])],
    work: &Work<'_>,
) -> Result<(), OciError> {
    let mut documents: Vec<(Digest, &Vec<u8>)> =
        contents.documents.iter().map(|bytes| (Digest::of(bytes), bytes)).collect();
    documents.sort_by_key(|(digest, _)| *digest);
    documents.dedup_by_key(|(digest, _)| *digest);
    file(&mut out, "oci-layout", VERSION)?;
    for (digest, bytes) in documents {
        file(&mut out, &blob_path(&digest), bytes)?;
    }
    for (digest, size) in contents.distinct_blobs() {
        begin(&mut out, &blob_path(&digest), size)?;
        copy(blobs, &digest, size, &mut out, work)?;
        pad(&mut out, size)?;
    }
    file(&mut out, "index.json", &to_json(&Index::new(contents.entries))?)?;
    for (path, bytes) in beside {
        file(&mut out, path, bytes)?;
    }
    out.write_all(&header::END)?;
    Ok(out.flush()?)
}

/// Returns the path of a blob in a layout.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn begin(out: &mut impl Write, path: &str, size: u64) -> Result<(), OciError> {
    let mut bytes = Vec::new();
    Member::file(path, size).write(&mut bytes);
    Ok(out.write_all(&bytes)?)
}

fn pad(out: &mut impl Write, size: u64) -> Result<(), OciError> {
    Ok(out.write_all(&header::END[..header::padding(size)])?)
}

fn file(out: &mut impl Write, path: &str, bytes: &[u8]) -> Result<(), OciError> {
    begin(out, path, bytes.len() as u64)?;
    out.write_all(bytes)?;
    pad(out, bytes.len() as u64)
}
