//! Layers that fuzzing makes of bytes. Checksums of a tar would keep mutations from ever reaching what is behind them.

use tar::{Builder, EntryType, Header};

/// A member of a layer.
#[derive(Debug, Clone)]
pub struct Member {
    pub path: String,
    pub kind: Kind,
    pub mode: u32,
}

/// The kind of a member.
#[derive(Debug, Clone)]
pub enum Kind {
    Directory,
    File(Vec<u8>),
    /// With its target.
    Symlink(String),
    /// With the path that it is another name of.
    HardLink(String),
    Pipe,
    /// What lies at the path in lower layers is removed.
    Whiteout,
    /// What lies below the path in lower layers is removed.
    Opaque,
}

/// Bytes, taken one by one; zeros at their end.
pub struct Bytes<'b>(pub &'b [u8]);

impl Bytes<'_> {
    pub fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn one_of<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::from(self.next()) % from.len()]
    }

    /// Returns a path of one to four of these names.
    pub fn path(&mut self, names: &[&str]) -> String {
        let count = self.next() % 4 + 1;
        (0..count).map(|_| self.one_of(names)).collect::<Vec<_>>().join("/")
    }

    /// Returns a member whose path has these names, and whose links lead to these targets.
    pub fn member(&mut self, names: &[&str], targets: &[&str]) -> Member {
        let path = self.path(names);
        let kind = match self.next() % 8 {
            0 | 1 => Kind::Directory,
            2 | 3 => {
                let size = usize::from(self.next());
                Kind::File(vec![self.next(); size])
            }
            4 => Kind::Symlink(self.one_of(targets).to_owned()),
            5 => Kind::HardLink(self.path(names)),
            6 => Kind::Whiteout,
            _ if self.next() % 2 == 0 => Kind::Opaque,
            _ => Kind::Pipe,
        };
        let mode = [0o644, 0o755, 0o4755, 0o1777, 0o000, 0o700][usize::from(self.next() % 6)];
        Member { path, kind, mode }
    }
}

/// Writes members as a layer's tar.
pub fn tar(members: &[Member]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for Member { path, kind, mode } in members {
        let (above, name) = path.rsplit_once('/').map_or(("", path.as_str()), |(above, name)| (above, name));
        let (path, kind, link, content): (String, _, &str, &[u8]) = match kind {
            Kind::Directory => (format!("{path}/"), EntryType::Directory, "", b""),
            Kind::File(content) => (path.clone(), EntryType::Regular, "", content),
            Kind::Symlink(target) => (path.clone(), EntryType::Symlink, target, b""),
            Kind::HardLink(target) => (path.clone(), EntryType::Link, target, b""),
            Kind::Pipe => (path.clone(), EntryType::Fifo, "", b""),
            Kind::Whiteout => (format!("{above}/.wh.{name}"), EntryType::Regular, "", b""),
            Kind::Opaque => (format!("{path}/.wh..wh..opq"), EntryType::Regular, "", b""),
        };
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        // As it is: the library's own functions refuse paths that lead upwards.
        let old = header.as_old_mut();
        let (path, link) = (&path.as_bytes()[..path.len().min(100)], &link.as_bytes()[..link.len().min(100)]);
        old.name[..path.len()].copy_from_slice(path);
        old.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        let _ = builder.append(&header, content);
    }
    builder.into_inner().unwrap_or_default()
}

/// Returns the place where this process keeps the owners of files.
pub fn owners() -> kiln_oci::tree::Owners {
    use std::os::unix::fs::MetadataExt as _;
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0);
    if is_root { kiln_oci::tree::Owners::Given } else { kiln_oci::tree::Owners::Noted }
}
