//! Wheels in directories and on pages, and what they say of themselves.

use std::io::Read as _;
use std::path::Path;

use kiln_plan::digest::Digest;
use kiln_wheel::archive::FileReader;
use kiln_wheel::install::Wheel;
use kiln_wheel::metadata::Metadata;
use kiln_wheel::name::WheelName;
use pep508_rs::PackageName;
use url::Url;

use super::{Found, Result};

pub(super) fn wheels_in(directory: &Path, name: &PackageName, address: &dyn Fn(&Path) -> String) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let Ok(entries) = fs_err::read_dir(directory) else {
        return Ok(found);
    };
    for entry in entries {
        let path = entry?.path();
        let wheel = path.file_name().unwrap_or_default().to_string_lossy().parse::<WheelName>();
        if let Ok(wheel) = wheel
            && wheel.name == *name
        {
            found.push(Found { name: wheel, address: address(&path), path, direct: false });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The wheels that a page of links names.
pub(super) fn wheels_on(page: &Path, name: &PackageName) -> Result<Vec<Found>> {
    let text = fs_err::read_to_string(page)?;
    let mut found = Vec::new();
    for link in text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        let (address, hash) = link.split_once("#sha256=").ok_or("a link has no digest")?;
        let path = address.parse::<Url>()?.to_file_path().map_err(|()| "it is no file")?;
        let wheel = path.file_name().unwrap_or_default().to_string_lossy().parse::<WheelName>();
        if let Ok(wheel) = wheel
            && wheel.name == *name
        {
            if Digest::of(&fs_err::read(&path)?).hex() != hash {
                return Err(format!("the digest of {} is wrong", path.display()).into());
            }
            found.push(Found { name: wheel, address: address.to_owned(), path, direct: false });
        }
    }
    Ok(found)
}

pub(super) fn metadata(found: &Found) -> Result<Metadata> {
    let beside = found.path.with_added_extension("metadata");
    if let Ok(bytes) = fs_err::read(beside) {
        return Ok(Metadata::parse(&bytes));
    }
    let mut file = fs_err::File::open(&found.path)?;
    refuse_unreadable(&mut file, found)?;
    let size = file.metadata()?.len();
    let wheel = Wheel::open(found.name.clone(), FileReader::from(file.into_file()), size);
    let read = wheel.and_then(|wheel| wheel.metadata());
    Ok(read.map_err(|error| format!("Failed to read metadata from: {}\n  cause: {error}", found.path.display()))?)
}

/// uv reads a wheel from its beginning, and cannot find the end of a stored entry whose size follows it (APPNOTE.TXT, section
/// 4.3.7: flag 3, method 0).
fn refuse_unreadable(file: &mut fs_err::File, found: &Found) -> Result<()> {
    let mut header = [0; 10];
    if file.read_exact(&mut header).is_err() || header[6] & 8 == 0 || header[8] != 0 {
        return Ok(());
    }
    let wheel = found.path.file_name().unwrap_or_default().to_string_lossy();
    let cause = "feature not supported: 'stream reading entries with data descriptors & Stored compression mode'";
    let (name, version) = (&found.name.name, &found.name.version);
    let error = format!("Failed to download `{name}=={version}`\n  cause: Failed to extract archive: {wheel}");
    Err(format!("{error}\n  cause: Invalid zip file structure\n  cause: {cause}").into())
}
