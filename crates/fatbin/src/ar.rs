//! Members of archives (ar(5)): headers of 60 bytes, each before its content, at even positions.

use std::io;
use std::ops::Range;

use crate::source::{Source, Window};

/// The beginning of an archive.
pub(crate) const ARCHIVE: &[u8] = b"!<arch>\n";
/// The beginning of an archive that only names its members, which are files of their own (ar(1), "thin").
pub(crate) const THIN: &[u8] = b"!<thin>\n";
/// Bytes of a member's header, and places in it: the name, and the size in decimal digits with blanks behind.
pub(crate) const HEADER: u64 = 60;
const NAME: Range<usize> = 0..16;
pub(crate) const SIZE: Range<usize> = 48..58;

/// A member: its header, where that is, and the place and bytes of its content.
pub(crate) struct Member {
    pub(crate) header: [u8; HEADER as usize],
    pub(crate) at: u64,
    pub(crate) from: u64,
    pub(crate) size: u64,
}

impl Member {
    /// Reads the member at a position, whose content may lie in a file of its own. The inner error is a clause.
    pub(crate) fn read<S: Source + ?Sized>(window: &mut Window<'_, S>, at: u64) -> io::Result<Result<Self, String>> {
        let Some(header) = window.array::<{ HEADER as usize }>(at)? else {
            return Ok(Err(format!("at byte {at:#x} the archive is cut off")));
        };
        let size = std::str::from_utf8(&header[SIZE]).ok().and_then(|text| text.trim().parse().ok());
        let member = size.map(|size| Self { header, at, from: at + HEADER, size });
        Ok(member.ok_or_else(|| cut_off(at)))
    }

    /// Reads the member at a position, whose content follows. The inner error is a clause.
    pub(crate) fn read_whole<S: Source + ?Sized>(
        window: &mut Window<'_, S>,
        at: u64,
    ) -> io::Result<Result<Self, String>> {
        let (member, end) = (Self::read(window, at)?, window.size());
        let fits = |member: &Self| member.from.checked_add(member.size).is_some_and(|own| own <= end);
        Ok(member.and_then(|member| if fits(&member) { Ok(member) } else { Err(cut_off(at)) }))
    }

    /// Its name as it stands in the header.
    pub(crate) fn name(&self) -> &str {
        std::str::from_utf8(&self.header[NAME]).unwrap_or_default().trim_end()
    }

    /// Reads its content, as far as the archive has it.
    pub(crate) fn content<S: Source + ?Sized>(&self, window: &mut Window<'_, S>) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        while (content.len() as u64) < self.size {
            let left = usize::try_from(self.size - content.len() as u64).unwrap_or(usize::MAX);
            match window.bytes(self.from + content.len() as u64, left)? {
                [] => break,
                more => content.extend_from_slice(more),
            }
        }
        Ok(content)
    }

    /// The place of the next one, where its content follows.
    pub(crate) fn next(&self) -> u64 {
        self.from.saturating_add(self.size).saturating_add(self.size & 1)
    }
}

fn cut_off(at: u64) -> String {
    format!("at byte {at:#x} a member of the archive is cut off")
}
