//! `cargo xtask words`: documentation that begins with a question word. "Whether it fits" leaves out who does what; the
//! count of such paragraphs may only fall.

use std::path::Path;

use clap::Args;

use crate::interop::say;
use crate::sources;

/// Words that no paragraph of documentation begins with.
const QUESTIONS: [&str; 8] = ["What", "Whether", "Nothing", "How", "Who", "Where", "Which", "Why"];
/// The file with the count that is not to be exceeded.
const BOUND: &str = ".ci/words";

/// Count the paragraphs of documentation that begin with a question word, and fail when there are more than `.ci/words` allows
#[derive(Debug, Args)]
pub(crate) struct Words {
    /// Print the count of each file
    #[arg(long)]
    list: bool,
}

impl Words {
    pub(crate) fn run(&self) -> Result<(), String> {
        let root = sources::root();
        let (mut questions, mut paragraphs) = (0, 0);
        let mut files = sources::files(&root.join("crates"))?;
        files.extend(sources::files(&root.join("xtask"))?);
        for path in files {
            let text = sources::read(&path)?;
            let first_words = first_words(&text);
            let found = first_words.iter().filter(|word| QUESTIONS.contains(word)).count();
            if self.list && found > 0 {
                say(&format!("{found:5} {}", path.strip_prefix(root).unwrap_or(&path).display()));
            }
            questions += found;
            paragraphs += first_words.len();
        }
        say(&format!("{questions:5} of {paragraphs} paragraphs of documentation begin with a question word"));
        check(questions, bound(root)?)
    }
}

fn bound(root: &Path) -> Result<usize, String> {
    let text = sources::read(&root.join(BOUND))?;
    text.trim().parse().map_err(|_| format!("`{BOUND}` holds no number"))
}

fn check(questions: usize, bound: usize) -> Result<(), String> {
    if questions > bound {
        return Err(format!(
            "{questions} paragraphs of documentation begin with a question word, and `{BOUND}` allows {bound}: \
             `cargo xtask words --list` names the files; begin with a verb or a noun"
        ));
    }
    if questions < bound {
        say(&format!("`{BOUND}` allows {bound}: write {questions} into it"));
    }
    Ok(())
}

/// Returns the first word of each paragraph of documentation; empty where it begins with something else.
fn first_words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut inside, mut fenced) = (false, false);
    for line in text.lines() {
        let line = line.trim_start();
        let Some(content) = documentation(line) else {
            (inside, fenced) = (false, false);
            continue;
        };
        if content.starts_with("```") {
            (inside, fenced) = (true, !fenced);
        } else if content.is_empty() {
            inside = false;
        } else if !inside && !fenced {
            let end = content.find(|letter: char| !letter.is_alphabetic()).unwrap_or(content.len());
            words.push(&content[..end]);
            inside = true;
        }
    }
    words
}

/// Returns the text of a line of documentation.
fn documentation(line: &str) -> Option<&str> {
    let content =
        line.strip_prefix("//!").or_else(|| line.strip_prefix("///").filter(|rest| !rest.starts_with('/')))?;
    Some(content.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_paragraph_has_a_first_word() {
        let text = "//! What it is.\n//! Which goes on.\n//!\n//! Why, then.\n\n/// `code`\n///\n/// ```\n/// How\n///\n/// \
                    Who\n/// ```\n///\n/// Whatever\nfn f() {} /// no\n    /// What's more\n//// Where\n// Where\n";
        assert_eq!(first_words(text), ["What", "Why", "", "Whatever", "What"]);
    }

    #[test]
    fn the_count_may_fall_and_not_rise() {
        assert_eq!(check(3, 3), Ok(()));
        assert!(check(4, 3).unwrap_err().contains("`.ci/words` allows 3: `cargo xtask words --list`"));
        assert_eq!(check(2, 3), Ok(()));
    }
}
