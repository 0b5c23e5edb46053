//! The head of a `.pyc` file: magic, flags, time and size of its source (PEP 552). Python compiles a source again whose time
//! is another, so that bytecode gets the new time of its source.

/// Bytes of the head.
pub const HEAD: usize = 16;

/// Magic numbers of Python 3.7 and later: 3.7 has 3394, and Python 2 counted from 20121 upwards.
const MAGIC: std::ops::Range<u16> = 3394..20_000;

/// Returns time and size of the source, each modulo 2^32; `None` for bytecode that names its source by a hash, for bytecode of
/// Python before 3.7, and for anything else.
pub fn source(head: &[u8]) -> Option<(u32, u32)> {
    let [low, high, b'\r', b'\n', 0, 0, 0, 0, t0, t1, t2, t3, s0, s1, s2, s3] = head else { return None };
    let known = MAGIC.contains(&u16::from_le_bytes([*low, *high]));
    known.then(|| (u32::from_le_bytes([*t0, *t1, *t2, *t3]), u32::from_le_bytes([*s0, *s1, *s2, *s3])))
}

/// Writes the time of the source into the head of bytecode that has one.
pub fn date(head: &mut [u8], time: u64) {
    if source(head).is_some() {
        head[8..12].copy_from_slice(&(time as u32).to_le_bytes());
    }
}

/// Returns the path of the source of bytecode (PEP 3147): `a/b.py` for `a/__pycache__/b.cpython-311.pyc` and for `a/b.pyc`.
pub fn source_path(path: &str) -> Option<String> {
    let (folder, file) = path.rsplit_once('/').map_or((None, path), |(folder, file)| (Some(folder), file));
    let stem = file.strip_suffix(".pyc")?;
    let within = |folder: Option<&str>, name: &str| match folder {
        Some(folder) => format!("{folder}/{name}.py"),
        None => format!("{name}.py"),
    };
    match folder {
        Some("__pycache__") => Some(within(None, stem.split_once('.')?.0)),
        Some(cache) if cache.ends_with("/__pycache__") => {
            Some(within(cache.strip_suffix("/__pycache__"), stem.split_once('.')?.0))
        }
        folder => Some(within(folder, stem)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytecode_with_a_time_gets_another_and_bytecode_with_a_hash_keeps_it() {
        let head = |magic: u16, flags: u8| {
            let [low, high] = magic.to_le_bytes();
            [low, high, b'\r', b'\n', flags, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0]
        };
        let mut timed = head(3495, 0);
        assert_eq!(source(&timed), Some((0x0403_0201, 5)));
        date(&mut timed, 0x1_0000_0007);
        assert_eq!(source(&timed), Some((7, 5)));
        for (bytecode, source) in [
            ("a/__pycache__/b.cpython-311.pyc", Some("a/b.py")),
            ("__pycache__/b.cpython-311.opt-1.pyc", Some("b.py")),
            ("a/b.pyc", Some("a/b.py")),
            ("b.pyc", Some("b.py")),
            ("a/__pycache__/b.pyc", None),
            ("b.py", None),
        ] {
            assert_eq!(source_path(bytecode).as_deref(), source, "{bytecode}");
        }
        for mut other in [head(3495, 1), head(3495, 3), head(62_211, 0), head(3379, 0)] {
            let before = other;
            date(&mut other, 7);
            assert_eq!((source(&other), other), (None, before));
        }
    }
}
