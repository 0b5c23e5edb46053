//! Paragraphs of fields, of which Debian's indexes and packages are made (deb822(5)).

/// A paragraph that breaks the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// A line that neither begins a field nor goes on with one.
    #[error("line {line} is no field: `{text}`")]
    NoField {
        /// Its number, from 1 on.
        line: usize,
        /// The line.
        text: String,
    },
    /// A field that its paragraph has already.
    #[error("line {line} has the field `{name}` again")]
    Again {
        /// Its number, from 1 on.
        line: usize,
        /// The field's name.
        name: String,
    },
}

/// A paragraph: fields in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stanza<'t> {
    fields: Vec<(&'t str, &'t str)>,
}

impl<'t> Stanza<'t> {
    /// Returns the value of a field: all its lines, without spaces around. Names are the same in upper and lower case.
    pub fn get(&self, name: &str) -> Option<&'t str> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// Returns all fields with their values.
    pub fn fields(&self) -> impl Iterator<Item = (&'t str, &'t str)> {
        self.fields.iter().copied()
    }
}

/// Reads paragraphs. Lines that begin with `#` are comments.
pub fn stanzas(text: &str) -> Stanzas<'_> {
    Stanzas { text, at: 0, line: 0 }
}

/// An iterator over paragraphs, which ends at the first mistake.
#[derive(Debug, Clone)]
pub struct Stanzas<'t> {
    text: &'t str,
    at: usize,
    line: usize,
}

impl<'t> Stanzas<'t> {
    /// Returns the next line, and the place where it begins.
    fn next_line(&mut self) -> Option<(usize, &'t str)> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let start = self.at;
        let end = rest.find('\n').unwrap_or(rest.len());
        self.at = self.text.len().min(start + end + 1);
        self.line += 1;
        Some((start, rest[..end].trim_end_matches('\r')))
    }

    fn read(&mut self) -> Result<Option<Stanza<'t>>, ControlError> {
        let mut stanza = Stanza::default();
        // The bytes of the value of the last field.
        let mut value: Option<(usize, usize)> = None;
        while let Some((start, line)) = self.next_line() {
            if line.starts_with('#') {
                continue;
            }
            if line.trim().is_empty() {
                if stanza.fields.is_empty() {
                    continue;
                }
                break;
            }
            let end = start + line.len();
            if line.starts_with([' ', '\t']) {
                let (Some(value), Some(last)) = (value.as_mut(), stanza.fields.last_mut()) else {
                    return Err(self.no_field(line));
                };
                value.1 = end;
                last.1 = self.text[value.0..end].trim();
                continue;
            }
            let Some((name, rest)) = line.split_once(':').filter(|(name, _)| is_name(name)) else {
                return Err(self.no_field(line));
            };
            if stanza.get(name).is_some() {
                return Err(ControlError::Again { line: self.line, name: name.to_owned() });
            }
            value = Some((start + name.len() + 1, end));
            stanza.fields.push((name, rest.trim()));
        }
        Ok((!stanza.fields.is_empty()).then_some(stanza))
    }

    fn no_field(&self, line: &str) -> ControlError {
        ControlError::NoField { line: self.line, text: line.chars().take(80).collect() }
    }
}

impl<'t> Iterator for Stanzas<'t> {
    type Item = Result<Stanza<'t>, ControlError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.at = self.text.len();
        }
        read.transpose()
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_lines_and_paragraphs_end_at_lines_of_spaces() {
        let text = "# made by hand\nPackage: a\nDescription: short\n long\n .\n more\n \nPACKAGE:b\n\n\n";
        let all: Vec<Stanza<'_>> = stanzas(text).collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("package"), Some("a"));
        assert_eq!(all[0].get("Description"), Some("short\n long\n .\n more"));
        assert_eq!(all[1].fields().collect::<Vec<_>>(), [("PACKAGE", "b")]);
    }

    #[test]
    fn a_line_that_is_no_field_is_told_with_its_number() {
        let error = |text: &str| stanzas(text).find_map(Result::err).unwrap().to_string();
        assert_eq!(error("A: 1\n\n folded\n"), "line 3 is no field: ` folded`");
        assert_eq!(error("A: 1\nnothing\n"), "line 2 is no field: `nothing`");
        assert_eq!(error("A: 1\na: 2\n"), "line 2 has the field `a` again");
        assert_eq!(stanzas("x\nA: 1\n\nB: 2\n").count(), 1);
    }
}
