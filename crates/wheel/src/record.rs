//! `RECORD`: the list of installed files (PEP 376, PEP 427): path, `sha256=` and unpadded URL-safe base64, size.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// One line of a `RECORD`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Relative to the directory that holds the `.dist-info`.
    pub path: String,
    /// `sha256=...`, or empty for the `RECORD` itself.
    pub hash: String,
    /// Size in bytes, or empty.
    pub size: String,
}

/// Reads a wheel's `RECORD`, which may list so many files.
pub fn parse(bytes: &[u8], most: usize) -> Result<Vec<Row>, String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut rows = Vec::new();
    for (at, record) in reader.records().enumerate() {
        let record = record.map_err(|_| format!("has no valid CSV at line {}", at + 1))?;
        if rows.len() >= most {
            return Err("lists far more files than the wheel has".into());
        }
        let field = |at: usize| record.get(at).unwrap_or_default().to_owned();
        if field(0).is_empty() {
            return Err(format!("has no path at line {}", at + 1));
        }
        rows.push(Row { path: field(0), hash: field(1), size: field(2) });
    }
    Ok(rows)
}

/// Reads the paths of an installed `RECORD`, at most so many, whatever else its rows hold: those of old installers are no list that
/// [`parse`] takes.
pub fn paths(bytes: &[u8], most: usize) -> Vec<String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let path = |record: csv::ByteRecord| String::from_utf8_lossy(record.get(0).unwrap_or_default()).into_owned();
    let paths = reader.byte_records().take(most).filter_map(|record| record.ok().map(path));
    paths.filter(|path| !path.is_empty()).collect()
}

/// Writes rows, sorted by path.
pub fn write(mut rows: Vec<Row>) -> String {
    rows.sort();
    rows.dedup_by(|a, b| a.path == b.path);
    in_order(&rows)
}

/// Writes rows in the order in which they are.
pub fn in_order(rows: &[Row]) -> String {
    rows.iter().map(|row| format!("{},{},{}\n", quote(&row.path), row.hash, row.size)).collect()
}

fn quote(path: &str) -> String {
    if path.contains([',', '"', '\n', '\r']) { format!("\"{}\"", path.replace('"', "\"\"")) } else { path.to_owned() }
}

/// The row of a file without a hash.
pub fn bare(path: &str) -> Row {
    Row { path: path.to_owned(), hash: String::new(), size: String::new() }
}

/// The row of a file.
pub fn row(path: &str, content: &[u8]) -> Row {
    summed(path, &Sha256::digest(content), content.len() as u64)
}

/// The row of a file with this SHA-256 and so many bytes.
pub fn summed(path: &str, sha256: &[u8], size: u64) -> Row {
    Row { path: path.to_owned(), hash: format!("sha256={}", URL_SAFE_NO_PAD.encode(sha256)), size: size.to_string() }
}

/// The line of a file.
pub fn line(path: &str, content: &[u8]) -> String {
    write(vec![row(path, content)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_unpadded_url_safe_base64() {
        assert_eq!(line("a", b""), "a,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n");
    }

    #[test]
    fn a_record_reads_what_it_writes() {
        let rows = vec![row("a,b", b"x"), row("z", b"1"), row("ö \"q\"", b"")];
        assert_eq!(parse(write(rows.clone()).as_bytes(), 3).unwrap(), rows);
    }

    #[test]
    fn a_record_of_far_too_many_files_is_refused() {
        assert_eq!(parse(b"a,,\nb,,\nc,,\n", 2).unwrap_err(), "lists far more files than the wheel has");
    }

    #[test]
    fn the_rows_of_an_installed_record_are_read_whatever_is_odd_about_them() {
        let text = b"a.py\n,sha256=x,1\n\n\"b,c.py\",sha256=x,1,more\nd\\e.py,,\n\xff.py,,\r\n\"unclosed,,\nf.py,,\n";
        assert_eq!(paths(text, 9), ["a.py", "b,c.py", "d\\e.py", "\u{fffd}.py", "unclosed,,\nf.py,,\n"]);
        assert_eq!(paths(text, 1), ["a.py"]);
    }

    #[test]
    fn a_line_without_a_path_is_refused() {
        assert_eq!(parse(b"a,,\n,sha256=x,1\n", 9).unwrap_err(), "has no path at line 2");
    }
}
