//! Lines of a program's output, without secrets, in bounded memory.

use std::collections::VecDeque;

use kiln_plan::secret::Secrets;

/// Bytes of one line that are kept.
const MAX_LINE: usize = 64 << 10;
/// Last lines that are kept, and their bytes.
const MAX_LINES: usize = 2000;
const MAX_BYTES: usize = 256 << 10;

/// Cuts bytes into lines. The rest of a line that is too long is dropped.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    line: Vec<u8>,
}

impl Cutter {
    /// Takes bytes, and passes on each line that they complete.
    pub(crate) fn take(&mut self, bytes: &[u8], each: &mut dyn FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.finish(each);
            }
        }
    }

    /// Passes on what stands after the last line's end.
    pub(crate) fn finish(&mut self, each: &mut dyn FnMut(&str)) {
        if !self.line.is_empty() {
            each(String::from_utf8_lossy(&self.line).trim_end());
            self.line.clear();
        }
    }
}

/// The last lines of a program.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    pub(crate) fn push(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.len());
        }
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}

/// Returns arguments without secrets.
pub(crate) fn redacted(arguments: &[std::ffi::OsString], secrets: &Secrets) -> Vec<String> {
    arguments.iter().map(|argument| secrets.redact(&argument.to_string_lossy())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_the_bytes_are_and_a_long_one_loses_its_end() {
        let mut cutter = Cutter::default();
        let mut lines = Vec::new();
        for bytes in [b"a\nb".as_slice(), b"c \r\n\n", &[b'x'; 2 * MAX_LINE], b"y\nrest"] {
            cutter.take(bytes, &mut |line| lines.push(line.to_owned()));
        }
        cutter.finish(&mut |line| lines.push(line.to_owned()));
        assert_eq!(lines, ["a", "bc", "", &"x".repeat(MAX_LINE), "rest"]);
    }

    #[test]
    fn the_last_lines_have_a_bound_in_number_and_in_bytes() {
        let mut tail = Tail::default();
        (0..3 * MAX_LINES).for_each(|number| tail.push(number.to_string()));
        assert_eq!(tail.lines.len(), MAX_LINES);
        (0..20).for_each(|_| tail.push("x".repeat(MAX_LINE)));
        assert_eq!(tail.lines.len(), MAX_BYTES / MAX_LINE);
        assert_eq!(tail.into_lines().len(), MAX_BYTES / MAX_LINE);
    }
}
