//! `~/.netrc`: credentials by host, as curl, pip and uv read them.

use std::borrow::Cow;

/// The entries of a netrc file.
#[derive(Debug, Clone, Default)]
pub struct Netrc {
    machines: Vec<(String, String, String)>,
    default: Option<(String, String)>,
}

impl Netrc {
    /// Reads the entries; what cannot be understood is passed over.
    pub fn parse(text: &str) -> Self {
        let mut netrc = Self::default();
        let mut words = Words { text, is_broken: false };
        let (mut machine, mut login, mut password) = (None, String::new(), String::new());
        while let Some(word) = words.next() {
            match &*word {
                "machine" | "default" => {
                    netrc.add(machine.take(), &mut login, &mut password);
                    machine = Some(if word == "machine" { words.value() } else { None });
                }
                "login" | "user" => login = words.value().unwrap_or_default(),
                "password" => password = words.value().unwrap_or_default(),
                "account" => drop(words.next()),
                "macdef" => words.skip_macro(),
                // A comment: values that begin so were read with their keyword.
                word if word.starts_with('#') => words.skip_line(),
                _ => {}
            }
        }
        if !words.is_broken {
            netrc.add(machine, &mut login, &mut password);
        }
        netrc
    }

    fn add(&mut self, machine: Option<Option<String>>, login: &mut String, password: &mut String) {
        let (login, password) = (std::mem::take(login), std::mem::take(password));
        match machine {
            Some(Some(host)) => self.machines.push((host, login, password)),
            Some(None) => self.default = Some((login, password)),
            None => {}
        }
    }

    /// Login and password for a host.
    pub fn find(&self, host: &str) -> Option<(String, String)> {
        let machine = self.machines.iter().find(|(machine, ..)| machine == host);
        machine.map(|(_, login, password)| (login.clone(), password.clone())).or_else(|| self.default.clone())
    }
}

/// The words of a netrc file, as curl reads them (its `lib/netrc.c`): apart by white space, or in double quotes with
/// backslashes before what is meant as it is. A line that begins with `#` is a comment.
struct Words<'a> {
    text: &'a str,
    /// True if a quote has no end.
    is_broken: bool,
}

impl<'a> Words<'a> {
    /// Returns the next word as a value.
    fn value(&mut self) -> Option<String> {
        self.next().map(Cow::into_owned)
    }

    fn skip_line(&mut self) {
        self.text = self.text.split_once('\n').map_or("", |(_, rest)| rest);
    }

    /// Skips a macro of ftp: up to an empty line.
    fn skip_macro(&mut self) {
        self.skip_line();
        while !self.text.is_empty() && !self.text.lines().next().unwrap_or_default().trim().is_empty() {
            self.skip_line();
        }
    }

    /// Skips white space, and lines that are comments.
    fn skip_space(&mut self) {
        let mut begins_line = false;
        loop {
            let rest = self.text.trim_start();
            begins_line |= self.text[..self.text.len() - rest.len()].contains('\n');
            self.text = rest;
            if !(begins_line && rest.starts_with('#')) {
                return;
            }
            self.skip_line();
        }
    }

    /// Reads a word behind its opening quote. A quote that does not end on its line ends the file, and the entry with it
    /// is left out: curl refuses the whole file.
    fn quoted(&mut self) -> Option<Cow<'a, str>> {
        let mut word = String::new();
        let mut letters = self.text.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.text = &self.text[at + 1..];
                    return Some(word.into());
                }
                '\n' => break,
                '\\' => match letters.next().map_or('\n', |(_, letter)| letter) {
                    '\n' => break,
                    'n' => word.push('\n'),
                    'r' => word.push('\r'),
                    't' => word.push('\t'),
                    letter => word.push(letter),
                },
                letter => word.push(letter),
            }
        }
        (self.text, self.is_broken) = ("", true);
        None
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = Cow<'a, str>;

    fn next(&mut self) -> Option<Self::Item> {
        self.skip_space();
        if let Some(rest) = self.text.strip_prefix('"') {
            self.text = rest;
            return self.quoted();
        }
        let end = self.text.find(char::is_whitespace).unwrap_or(self.text.len());
        let (word, rest) = self.text.split_at(end);
        self.text = rest;
        (!word.is_empty()).then_some(word.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_find_their_credentials_and_others_the_default() {
        let netrc = Netrc::parse("# note\nmachine a.example login me password secret\ndefault login x password y\n");
        assert_eq!(netrc.find("a.example"), Some(("me".into(), "secret".into())));
        assert_eq!(netrc.find("b.example"), Some(("x".into(), "y".into())));
        assert_eq!(Netrc::parse("machine a login b").find("c"), None);
    }

    fn found(text: &str, host: &str) -> Option<(String, String)> {
        Netrc::parse(text).find(host)
    }

    fn pair(login: &str, password: &str) -> Option<(String, String)> {
        Some((login.into(), password.into()))
    }

    #[test]
    fn a_password_may_hold_and_begin_with_a_number_sign() {
        assert_eq!(found("machine a login b password s#cret", "a"), pair("b", "s#cret"));
        assert_eq!(
            found("machine a login b password #secret\nmachine c login d password e", "a"),
            pair("b", "#secret")
        );
        assert_eq!(found("machine a login b password #secret\nmachine c login d password e", "c"), pair("d", "e"));
    }

    #[test]
    fn a_comment_is_a_line_or_the_rest_of_one() {
        let text = "  # machine x\nmachine a # login x\nlogin\n# one\n# two\nb password c#\n#machine a password y\n";
        assert_eq!(found(text, "a"), pair("b", "c#"));
        assert_eq!(found(text, "x"), None);
    }

    #[test]
    fn a_word_in_quotes_holds_spaces_and_escapes() {
        let text = r#"machine "a" login "b c" password "d \"e\" \\ \t#f" machine g login h password i\j"k"#;
        assert_eq!(found(text, "a"), pair("b c", "d \"e\" \\ \t#f"));
        assert_eq!(found(text, "g"), pair("h", "i\\j\"k"));
        assert_eq!(found("machine a login \"\" password \"\"", "a"), pair("", ""));
    }

    #[test]
    fn a_quote_without_an_end_ends_the_file() {
        let text = "machine a login b password c\nmachine d login e password \"f\nmachine g login h password i\n";
        assert_eq!(found(text, "a"), pair("b", "c"));
        assert_eq!(found(text, "g"), None);
        assert_eq!(found(text, "d"), None);
        assert_eq!(found("machine a login b password \"c\\", "a"), None);
    }

    #[test]
    fn a_macro_ends_with_an_empty_line() {
        let text = "macdef init\nmachine x login y password z\n\nmachine a login b password c\n\
                    macdef other\npassword wrong\n \nmachine d account f login e password g\nmacdef last\nlogin x";
        assert_eq!(found(text, "x"), None);
        assert_eq!(found(text, "a"), pair("b", "c"));
        assert_eq!(found(text, "d"), pair("e", "g"));
    }
}
