//! Sizes in bytes, as people write and read them.

/// `2GiB`, `500MB`, `1024` in bytes; nothing where the text is no size below 10^18 bytes.
pub fn parse(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit: f64 = match text[digits..].trim() {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => f64::from(1 << 20),
        "GiB" => f64::from(1 << 30),
        "TiB" => 1024.0 * f64::from(1 << 30),
        _ => return None,
    };
    let bytes = number * unit;
    (bytes < 1e18).then_some(bytes as u64)
}

/// Bytes in decimal units with three significant digits: `2.72 GB`, `85.1 kB`, `312 B`.
pub fn format(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        assert_eq!(parse("2GiB"), Some(2 << 30));
        assert_eq!(parse("1.5 GB"), Some(1_500_000_000));
        assert_eq!(parse("0"), Some(0));
        for wrong in ["", "GiB", "-1GB", "1 parsec", "1e9", "99999999TB"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        let shown = [0, 999, 1000, 85_123, 999_999, 12_345_678, 2_719_000_000].map(format);
        assert_eq!(shown, ["0 B", "999 B", "1.00 kB", "85.1 kB", "1.00 MB", "12.3 MB", "2.72 GB"]);
    }
}
