//! File times in layers.
//!
//! Every source of files has one time of its own, made from its digest, because others take a file of the same size and the
//! same time for unchanged: Python, where bytecode is kept on a volume, web servers' ETags, and rsync. Within a source all
//! files have the same time: with one for each file, `make` would find sources that are newer than what was generated from
//! them. The oldest time is a day after what a zip archive can say, so that it is in 1980 everywhere west of Greenwich too.

use kiln_plan::digest::Digest;

/// The time at which images are made where nobody says another: 1980-01-01T00:00:00Z, in seconds since 1970.
pub const CREATED: u64 = 315_532_800;

/// The time of directories and links, and the oldest of a file: 1980-01-02T00:00:00Z, in seconds since 1970.
pub const OLDEST: u64 = CREATED + 86_400;

/// The oldest time of copied files, after those of all wheels and packages: 1988-07-06T00:00:00Z, in seconds since 1970.
const COPIED: u64 = 584_150_400;

/// Returns the time of the files of a wheel or of a Debian package, until July 1988.
pub fn packaged(digest: &Digest) -> u64 {
    OLDEST + bits(&digest.hex())
}

/// Returns the time of copied files, by the digest of their names, modes and contents in hexadecimal digits; until January
/// 1997.
pub fn copied(digest: &str) -> u64 {
    COPIED + bits(digest)
}

/// The oldest time of files that run steps made, after those of copies: 1997-02-01T00:00:00Z, in seconds since 1970.
const RAN: u64 = 854_755_200;

/// Returns the time of the files of a run step's layer, by the number of such layers below and the digest of its content. A file of a
/// later step is always younger: `make` would make it again otherwise. 255 such layers end in 2030.
pub fn ran(below: u8, content: &Digest) -> u64 {
    RAN + (u64::from(below) << 22) + (bits(&content.hex()) >> 6)
}

/// Returns the first 28 bits of a digest in hexadecimal digits.
fn bits(digest: &str) -> u64 {
    digest.get(..7).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_begin_where_zip_can_say_them_and_copies_are_younger_than_packages() {
        let most = "f".repeat(64);
        assert_eq!(packaged(&Digest::from_hex(&"0".repeat(64)).unwrap()), 315_619_200);
        assert_eq!(packaged(&Digest::from_hex(&most).unwrap()), 315_619_200 + (1 << 28) - 1);
        assert_eq!((copied("0000000f"), copied(&most)), (584_150_400, 584_150_400 + (1 << 28) - 1));
        assert!(packaged(&Digest::from_hex(&most).unwrap()) < copied("0000000"));
        let (least, most) = (Digest::from_hex(&"0".repeat(64)).unwrap(), Digest::from_hex(&most).unwrap());
        assert!(copied(&most.hex()) < ran(0, &least));
        assert!(ran(0, &most) < ran(1, &least) && ran(254, &most) < ran(255, &least));
        assert!(ran(255, &most) < 2_000_000_000);
    }
}
