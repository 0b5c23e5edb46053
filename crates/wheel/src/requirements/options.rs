//! A logical line as pip divides it: what comes before the first word with a hyphen is a requirement, the rest are
//! options in the quoting of a shell.

use std::ops::Range;

/// An option of requirements files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    IndexUrl,
    ExtraIndexUrl,
    NoIndex,
    Constraint,
    Requirement,
    Editable,
    FindLinks,
    NoBinary,
    OnlyBinary,
    PreferBinary,
    RequireHashes,
    NoRequireHashes,
    Pre,
    AllReleases,
    OnlyFinal,
    TrustedHost,
    UseFeature,
    Hash,
    ConfigSetting,
}

/// The spellings of every option that pip reads in such files.
const SPELLINGS: [(&str, Name); 27] = [
    ("-i", Name::IndexUrl),
    ("--index-url", Name::IndexUrl),
    ("--pypi-url", Name::IndexUrl),
    ("--extra-index-url", Name::ExtraIndexUrl),
    ("--no-index", Name::NoIndex),
    ("-c", Name::Constraint),
    ("--constraint", Name::Constraint),
    ("-r", Name::Requirement),
    ("--requirement", Name::Requirement),
    ("-e", Name::Editable),
    ("--editable", Name::Editable),
    ("-f", Name::FindLinks),
    ("--find-links", Name::FindLinks),
    ("--no-binary", Name::NoBinary),
    ("--only-binary", Name::OnlyBinary),
    ("--prefer-binary", Name::PreferBinary),
    ("--require-hashes", Name::RequireHashes),
    ("--no-require-hashes", Name::NoRequireHashes),
    ("--pre", Name::Pre),
    ("--all-releases", Name::AllReleases),
    ("--only-final", Name::OnlyFinal),
    ("--trusted-host", Name::TrustedHost),
    ("--use-feature", Name::UseFeature),
    ("--hash", Name::Hash),
    ("-C", Name::ConfigSetting),
    ("--config-setting", Name::ConfigSetting),
    ("--config-settings", Name::ConfigSetting),
];

impl Name {
    /// The spelling that messages use.
    pub(super) fn spelling(self) -> &'static str {
        let long = |(text, name): &&(&str, Self)| *name == self && text.starts_with("--");
        let short = matches!(self, Self::Constraint | Self::Requirement | Self::Editable);
        let found = SPELLINGS.iter().find(|(_, name)| short && *name == self).or(SPELLINGS.iter().find(long));
        found.map_or("--", |(text, _)| *text)
    }

    fn takes_value(self) -> bool {
        !matches!(self, Self::NoIndex | Self::PreferBinary | Self::RequireHashes | Self::NoRequireHashes | Self::Pre)
    }
}

/// An option with its value, and its place in the line.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) name: Name,
    pub(super) value: String,
    pub(super) at: Range<usize>,
}

/// A line that cannot be divided: the place in it, and a clause that says why.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) at: Range<usize>,
    pub(super) problem: String,
}

/// The requirement of a line, which may be empty, and its options.
pub(super) fn divide(line: &str) -> Result<(&str, Vec<Given>), Wrong> {
    let mut begin = 0;
    for word in line.split(' ') {
        if word.starts_with('-') {
            break;
        }
        begin = (begin + word.len() + 1).min(line.len());
    }
    let requirement = line[..begin].trim_end_matches(' ');
    let words = words(line, begin)?;
    Ok((requirement, options(&words)?))
}

type Word = (String, Range<usize>);

/// Words from a place on, with the quotes and backslashes of a shell taken away.
fn words(line: &str, begin: usize) -> Result<Vec<Word>, Wrong> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote = None;
    let mut characters = line[begin..].char_indices().map(|(at, c)| (begin + at, c));
    while let Some((at, c)) = characters.next() {
        if quote.is_none() && matches!(c, ' ' | '\t' | '\r' | '\n') {
            words.extend(word.take());
            continue;
        }
        let (text, range) = word.get_or_insert_with(|| (String::new(), at..at));
        range.end = at + c.len_utf8();
        match c {
            '\'' | '"' if quote.is_none() => quote = Some(c),
            c if quote == Some(c) => quote = None,
            '\\' if quote != Some('\'') => {
                let Some((at, next)) = characters.next() else {
                    return Err(Wrong { at: range.clone(), problem: "ends with a backslash".into() });
                };
                if quote.is_some() && !matches!(next, '"' | '\\') {
                    text.push(c);
                }
                text.push(next);
                range.end = at + next.len_utf8();
            }
            c => text.push(c),
        }
    }
    if let (Some(_), Some((_, at))) = (quote, &word) {
        return Err(Wrong { at: at.clone(), problem: "has a quote that is not closed".into() });
    }
    words.extend(word);
    Ok(words)
}

/// Reads options as Python's `optparse` does: `--name value`, `--name=value`, `-nvalue`, and beginnings of long names.
fn options(words: &[Word]) -> Result<Vec<Given>, Wrong> {
    let mut found = Vec::new();
    let mut words = words.iter();
    while let Some((word, at)) = words.next() {
        let wrong = |problem: &str| Wrong { at: at.clone(), problem: problem.to_owned() };
        let (name, value) = if word.starts_with("--") && word.len() > 2 {
            let (name, value) = word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
            (long(name).map_err(|problem| wrong(&problem))?, value)
        } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.starts_with('-')) {
            let Some(letter) = letters.chars().next() else { return Err(wrong("is no option")) };
            let short = |(text, _): &&(&str, Name)| text.len() == 2 && text.ends_with(letter);
            let Some((_, name)) = SPELLINGS.iter().find(short) else {
                return Err(wrong("is no option of requirements files"));
            };
            (*name, Some(&letters[letter.len_utf8()..]).filter(|value| !value.is_empty()))
        } else {
            return Err(wrong("stands after an option, where pip ignores it"));
        };
        let mut at = at.clone();
        let value = match value {
            Some(value) if name.takes_value() => value.to_owned(),
            Some(_) => return Err(wrong("has a value, and the option takes none")),
            None if name.takes_value() => {
                let Some((value, value_at)) = words.next() else { return Err(wrong("lacks its value")) };
                at.end = value_at.end;
                value.clone()
            }
            None => String::new(),
        };
        found.push(Given { name, value, at });
    }
    Ok(found)
}

/// A long option by its name or by the beginning of one name alone.
fn long(text: &str) -> Result<Name, String> {
    if let Some((_, name)) = SPELLINGS.iter().find(|(known, _)| *known == text) {
        return Ok(*name);
    }
    let mut begun: Vec<_> = SPELLINGS.iter().filter(|(known, _)| known.starts_with(text)).collect();
    // Two spellings of one option are one.
    begun.dedup_by_key(|(_, name)| *name);
    let mut begun = begun.into_iter();
    match (begun.next(), begun.next()) {
        (Some((_, name)), None) => Ok(*name),
        (Some((first, _)), Some((second, _))) => Err(format!("may be `{first}` or `{second}`")),
        _ => Err("is no option of requirements files".to_owned()),
    }
}
