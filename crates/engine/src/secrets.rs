//! Secrets of commands: where they come from, and the search for them in what commands say and leave.
//!
//! A command gets a secret as a file in memory. It may print it, or write it into the image, mostly by accident: a token in the address
//! of a repository, a configuration file, a log. So what it says is redacted, and a layer that holds a secret is not made. The search
//! finds the text itself, lines and long words of it, and each of these in base64. A command that hides a secret in another form is not
//! stopped.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use kiln_plan::stack::{CommandLine, SecretSource};
use kiln_programs::{Call, ProgramError, Stdout};

use crate::error::{Result, SecretError};
use crate::workshop::Workshop;

/// Bytes of a secret at most.
const LARGEST: usize = 1 << 20;
/// Bytes of text that is searched for at least: shorter text stands in other files by chance.
const SHORTEST: usize = 6;
/// Bytes of a part of a secret that is searched for at least.
const SHORTEST_PART: usize = 16;
const HIDDEN: &str = "****";

/// Reads a secret. `directory` is the stack file's.
pub(crate) fn read(workshop: &Workshop<'_>, name: &str, source: &SecretSource, directory: &Path) -> Result<Vec<u8>> {
    let environment = &workshop.surroundings.environment;
    let content = match source {
        SecretSource::File(path) => {
            let path = match path.strip_prefix("~/") {
                Some(rest) => environment.get("HOME").map(Path::new).unwrap_or(directory).join(rest),
                None => directory.join(path),
            };
            let unusable = |error: io::Error| SecretError::unusable(name, format!("`{}`: {error}", path.display()));
            // A pipe or a device would never end.
            if !path.metadata().map_err(unusable)?.is_file() {
                return Err(SecretError::unusable(name, format!("`{}` is not a regular file", path.display())).into());
            }
            fs_err::read(&path).map_err(unusable)?
        }
        SecretSource::Env(variable) => {
            let value = environment.get(variable);
            let missing = || SecretError::unusable(name, format!("the variable `{variable}` is not set"));
            std::os::unix::ffi::OsStrExt::as_bytes(value.ok_or_else(missing)?.as_os_str()).to_vec()
        }
        SecretSource::Command(command) => {
            let words = match command {
                CommandLine::Words(words) => words.clone(),
                CommandLine::Shell(line) => ["sh", "-c", line].map(str::to_owned).to_vec(),
            };
            let [program, arguments @ ..] = words.as_slice() else {
                return Err(SecretError::unusable(name, "its command has no words".into()).into());
            };
            let call = Call::new(program, &[]).all_variables().args(arguments).directory(directory);
            let work = workshop.work("read", name, None);
            call.stdout(Stdout::Captured(LARGEST)).run(environment, &work).map_err(|error| match error {
                ProgramError::Interrupted => crate::error::BuildError::Interrupted,
                error => SecretError::unusable(name, error.to_string()).into(),
            })?
        }
    };
    match content.trim_ascii().len() {
        0 => Err(SecretError::unusable(name, "it is empty".into()).into()),
        1..=LARGEST => Ok(content),
        _ => Err(SecretError::unusable(name, "it is larger than 1 MiB".into()).into()),
    }
}

/// The forms of secrets that are searched for.
#[derive(Default)]
pub(crate) struct Searched {
    forms: Option<AhoCorasick>,
    longest: usize,
}

impl Searched {
    /// Collects the forms of secrets.
    pub(crate) fn new<'s>(secrets: impl IntoIterator<Item = &'s [u8]>) -> Self {
        let mut forms = BTreeSet::new();
        for secret in secrets {
            let whole = secret.trim_ascii();
            if whole.len() >= SHORTEST {
                add_forms(whole, &mut forms);
            }
            parts(whole).for_each(|part| add_forms(part, &mut forms));
        }
        let longest = forms.iter().map(Vec::len).max().unwrap_or(0);
        // The only error is too many forms for memory: secrets are small.
        Self { forms: AhoCorasick::new(&forms).ok().filter(|_| longest > 0), longest }
    }

    /// Returns the bytes of the longest form, at most as many as a line has.
    pub(crate) fn longest(&self) -> usize {
        self.longest.min(kiln_sandbox::LONGEST_LINE)
    }

    /// Returns text with stars in the place of secrets.
    pub(crate) fn redact(&self, text: String) -> String {
        match &self.forms {
            Some(forms) if forms.is_match(&text) => {
                let replacements = vec![HIDDEN; forms.patterns_len()];
                forms.replace_all(&text, &replacements)
            }
            _ => text,
        }
    }

    /// Returns the files below a directory that changed since a time and hold a secret.
    pub(crate) fn files(&self, directory: &Path, since: SystemTime) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        // A second for file systems with coarse times.
        let since = since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs().saturating_sub(1));
        let mut waiting = vec![directory.to_owned()];
        while let Some(directory) = waiting.pop().filter(|_| self.longest > 0) {
            // A command may leave what this user cannot read.
            for entry in fs_err::read_dir(directory).into_iter().flatten() {
                let (path, state) =
                    (entry.as_ref().map(|entry| entry.path()), entry.as_ref().map(|entry| entry.metadata()));
                let (Ok(path), Ok(Ok(state))) = (path, state) else { continue };
                if state.is_dir() {
                    waiting.push(path);
                } else if state.is_file() && state.ctime() >= i64::try_from(since).unwrap_or(0) {
                    let mut out = Searching::new(io::sink(), self);
                    let read = fs_err::File::open(&path).and_then(|mut file| io::copy(&mut file, &mut out));
                    if read.is_ok() && out.found {
                        found.push(path);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Returns true if bytes hold a secret.
    pub(crate) fn is_in(&self, bytes: &[u8]) -> bool {
        self.forms.as_ref().is_some_and(|forms| forms.is_match(bytes))
    }
}

/// Returns the lines of a secret that has several, and its words that look like keys: configuration files hold names of hosts and of
/// settings besides.
fn parts(secret: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = secret.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| line.len() >= 2 * SHORTEST_PART && !line.starts_with(b"-----"));
    let of_key = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'=');
    let words = secret.split(move |byte| !of_key(byte)).filter(|word| {
        word.len() >= SHORTEST_PART && word.iter().any(u8::is_ascii_digit) && word.iter().any(u8::is_ascii_alphabetic)
    });
    lines.chain(words)
}

/// Returns text as addresses and documents have it: percent-encoded (RFC 3986) by those who keep slashes and those who do not, with
/// digits of either case, and as JSON, also in ASCII.
fn escaped(text: &[u8]) -> Vec<Vec<u8>> {
    let encode = |kept: &str, plus: bool, upper: bool| {
        let one = |byte: &u8| match *byte {
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte) => {
                char::from(byte).to_string()
            }
            b' ' if plus => "+".to_owned(),
            byte if upper => format!("%{byte:02X}"),
            byte => format!("%{byte:02x}"),
        };
        text.iter().map(one).collect::<String>().into_bytes()
    };
    let ways = ["", "/", "!$&'()*+,;=:@/"].map(|kept| {
        [(false, true), (false, false), (true, true), (true, false)].map(|(plus, upper)| encode(kept, plus, upper))
    });
    let mut all: Vec<Vec<u8>> = ways.into_iter().flatten().collect();
    if let Ok(text) = std::str::from_utf8(text) {
        let json = serde_json::to_string(text).unwrap_or_default();
        let json = json.get(1..json.len().saturating_sub(1)).unwrap_or_default();
        let mut units = [0; 2];
        let ascii = json.chars().map(|c| match c {
            c if c.is_ascii() => c.to_string(),
            c => c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
        });
        all.extend([ascii.collect::<String>().into_bytes(), json.as_bytes().to_vec()]);
    }
    all
}

/// Adds text, and what base64 makes of it at each place in a longer text.
fn add_forms(text: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    forms.insert(text.to_vec());
    forms.extend(escaped(text));
    for shift in 0..3 {
        let shifted = [&vec![0; shift][..], text].concat();
        // Digits that also depend on bytes before and behind are left out.
        let (first, last) = ((shift * 8).div_ceil(6), shifted.len() * 8 / 6);
        for encoded in [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
            let certain = encoded.as_bytes().get(first..last).unwrap_or_default();
            if certain.len() >= SHORTEST {
                forms.insert(certain.to_vec());
            }
        }
    }
}

/// A writer that looks for secrets in what it passes on.
pub(crate) struct Searching<'s, W> {
    to: W,
    searched: &'s Searched,
    written: Ending,
    /// The same without line breaks: base64 in files is often broken into lines (RFC 2045).
    joined: Ending,
    pub(crate) found: bool,
}

/// The end of what was written, in which a secret may begin.
#[derive(Default)]
struct Ending(Vec<u8>);

impl Ending {
    /// Returns true if a secret ends in further bytes.
    fn look(&mut self, bytes: &[u8], searched: &Searched) -> bool {
        let kept = searched.longest.saturating_sub(1);
        self.0.extend_from_slice(&bytes[..bytes.len().min(kept)]);
        let found = searched.is_in(&self.0) || searched.is_in(bytes);
        if bytes.len() > kept {
            self.0.clear();
            self.0.extend_from_slice(&bytes[bytes.len() - kept..]);
        }
        self.0.drain(..self.0.len().saturating_sub(kept));
        found
    }
}

impl<'s, W: Write> Searching<'s, W> {
    pub(crate) fn new(to: W, searched: &'s Searched) -> Self {
        Self { to, searched, written: Ending::default(), joined: Ending::default(), found: false }
    }
}

impl<W: Write> Write for Searching<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        if self.searched.longest > 0 && !self.found {
            let bytes = &bytes[..written];
            let joined: Vec<u8> = bytes.iter().copied().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect();
            self.found = self.written.look(bytes, self.searched) || self.joined.look(&joined, self.searched);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOKEN: &[u8] = b"hf_AbCdEfGhIjKlMnOp0123456789\n";

    fn found(searched: &Searched, text: &[u8], piece: usize) -> bool {
        let mut out = Searching::new(io::sink(), searched);
        text.chunks(piece).for_each(|part| out.write_all(part).unwrap());
        out.found
    }

    #[test]
    fn a_token_is_found_plain_and_in_base64_wherever_it_stands() {
        let searched = Searched::new([TOKEN]);
        let token = String::from_utf8_lossy(TOKEN.trim_ascii()).into_owned();
        for around in ["", "a", "ab", "abc"] {
            let text = format!("{around}{token}{around}");
            let url = format!("https://user:{token}@host/path");
            for form in [&text, &url, &STANDARD_NO_PAD.encode(&text), &URL_SAFE_NO_PAD.encode(&text)] {
                let hidden = format!("before {form} behind");
                assert!((1..40).all(|piece| found(&searched, hidden.as_bytes(), piece)), "{form}");
                assert!(!searched.redact(hidden).contains(&token));
            }
        }
        assert!(!found(&searched, b"hf_AbCdEfGhIjKlMnOp012345678", 7));
    }

    #[test]
    fn escaped_forms_are_found() {
        let secret = "pä/ss+wo=rd&with%chars?\"42\" xyz";
        let searched = Searched::new([secret.as_bytes()]);
        for form in [
            "t=p%c3%a4%2fss%2bwo%3drd%26with%25chars%3f%2242%22%20xyz&u=1",
            "p%C3%A4%2Fss%2Bwo%3Drd%26with%25chars%3F%2242%22+xyz",
            "p%C3%A4/ss%2Bwo%3Drd%26with%25chars%3F%2242%22%20xyz",
            r#"{"token": "pä/ss+wo=rd&with%chars?\"42\" xyz"}"#,
            r#"{"token": "p\u00e4/ss+wo=rd&with%chars?\"42\" xyz"}"#,
        ] {
            assert!(searched.is_in(form.as_bytes()), "{form}");
        }
    }

    #[test]
    fn base64_is_found_across_lines() {
        let searched = Searched::new([TOKEN]);
        let text = STANDARD_NO_PAD.encode(["x".repeat(40).as_bytes(), TOKEN].concat());
        let lines: Vec<&str> = text.as_bytes().chunks(19).map(|line| std::str::from_utf8(line).unwrap()).collect();
        assert!(found(&searched, lines.join("\n").as_bytes(), 11));
        assert!(found(&searched, lines.join("\r\n").as_bytes(), 1000));
    }

    #[test]
    fn parts_of_a_file_with_several_lines_are_found_and_its_ordinary_words_are_not() {
        let netrc = b"machine artifacts.example.com\nlogin build-robot\npassword Zx81-aaaa-bbbb-cccc-dddd\n";
        let searched = Searched::new([&netrc[..]]);
        assert!(searched.is_in(b"https://build-robot:Zx81-aaaa-bbbb-cccc-dddd@artifacts.example.com/simple"));
        assert!(!searched.is_in(b"index-url = https://artifacts.example.com/simple, user build-robot"));
        let key = format!(
            "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n{}\n-----END OPENSSH PRIVATE KEY-----\n",
            "aB3/".repeat(17),
            "x9+Q".repeat(17)
        );
        let searched = Searched::new([key.as_bytes()]);
        assert!(searched.is_in("x9+Q".repeat(17).as_bytes()));
        assert!(!searched.is_in(b"-----BEGIN OPENSSH PRIVATE KEY-----"));
    }

    #[test]
    fn nothing_is_searched_for_where_no_secret_is_or_it_is_too_short() {
        for searched in [Searched::new([]), Searched::new([&b"abc"[..]])] {
            assert!(!found(&searched, b"abc", 1));
            assert_eq!(searched.redact("abc".into()), "abc");
        }
    }

    proptest! {
        #[test]
        fn a_secret_is_found_however_the_text_is_cut(
            secret in "[!-~]{6,60}", before in "[a-z \n]{0,80}", behind in "[a-z \n]{0,80}", piece in 1..100_usize,
        ) {
            let searched = Searched::new([secret.as_bytes()]);
            for text in [format!("{before}{secret}{behind}"), STANDARD_NO_PAD.encode(format!("{before}{secret}{behind}"))] {
                prop_assert!(found(&searched, text.as_bytes(), piece));
            }
        }
    }
}
