//! Clauses of uv's explanations. uv knows requirements alone: a pin, a constraint or an override is told as a requirement of
//! whoever needs the package, `torch==2.6.0 depends on fsspec==2026.9.0`. Here it becomes what it is.

use pep440_rs::Version;

/// A bound of a package's versions that is no requirement of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Normalised name of the package.
    pub name: String,
    /// The bound as a requirement: `torch==2.6.0`, `numpy<2`.
    pub requirement: String,
    /// Its meaning, a clause: `the base has torch 2.6.0`.
    pub says: String,
}

/// A requirement that an explanation names, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The package with its versions, `xformers>=0.0.35`; or `this image`, `the stack`, `you`.
    pub by: String,
    /// The requirement, `torch>=2.10`.
    pub requirement: String,
}

/// Lines and bytes up to which an explanation is shown whole.
const WHOLE: (usize, usize) = (5, 700);
/// Claims that stand for a longer one.
const MOST: usize = 3;

/// Returns an explanation in which bounds are told as what they are. Of a long one, the claims that contradict a bound.
pub fn attribute(explanation: &str, bounds: &[Bound]) -> String {
    let plain = without_markers(explanation);
    if (plain.lines().count() > WHOLE.0 || plain.len() > WHOLE.1)
        && let Some(short) = shortened(&plain, bounds)
    {
        return short;
    }
    bounds.iter().fold(plain, |text, bound| told(&text, bound))
}

/// Returns the claims about the package of a bound that are not the bound itself, the newest versions first.
pub fn against(explanation: &str, bound: &Bound) -> Vec<Claim> {
    let plain = without_markers(explanation);
    let mut found = claims(&plain);
    found.retain(|claim| name_of(&claim.requirement) == bound.name && claim.requirement != bound.requirement);
    let newest = |claim: &Claim| claim.by.rsplit(['=', '<', '>']).find_map(|version| version.parse::<Version>().ok());
    // What the image itself asks for has no version.
    found.sort_by_cached_key(|claim| newest(claim).map_or((0, None), |newest| (1, Some(std::cmp::Reverse(newest)))));
    found.dedup();
    found
}

fn shortened(plain: &str, bounds: &[Bound]) -> Option<String> {
    let mut lines = Vec::new();
    for bound in bounds {
        let claims = against(plain, bound);
        if claims.is_empty() {
            continue;
        }
        lines.extend(claims.iter().take(MOST).map(|claim| format!("{} depends on {},", claim.by, claim.requirement)));
        if claims.len() > MOST {
            lines.push(format!("and {} more like these,", claims.len() - MOST));
        }
        lines.push(format!("and {}", bound.says));
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The text without `{python_full_version < '3.12'}` behind names.
fn without_markers(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut depth = 0_usize;
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            c if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    // Advice of kiln has braces of its own.
    if depth == 0 && !text.contains(" = {") { plain } else { text.to_owned() }
}

/// A word without the punctuation behind it.
fn core(word: &str) -> &str {
    word.trim_end_matches([',', '.'])
}

/// The name of a requirement or of a package with versions.
fn name_of(text: &str) -> &str {
    &text[..text.find(['=', '<', '>', '~', '!', '[']).unwrap_or(text.len())]
}

/// The number of words of a verb that ends before a word, if one does.
fn verb_before(words: &[&str]) -> Option<usize> {
    match words {
        [.., "depends" | "depend", "on"] => Some(2),
        [.., "requires" | "require"] => Some(1),
        _ => None,
    }
}

/// Returns true for a word that is not the subject of another clause.
fn is_object(after: &[&str]) -> bool {
    !matches!(
        after,
        ["depends" | "depend" | "requires" | "require" | "was" | "were" | "has" | "have" | "cannot" | "are" | "is", ..]
    )
}

/// The first word of the subject that ends before a place.
fn subject(words: &[&str]) -> usize {
    let last = words.len().saturating_sub(1);
    match words {
        [.., "this", "image"] | [.., "the", "stack"] => last.saturating_sub(1),
        [.., one] => {
            let same = |word: &&&str| name_of(word) == name_of(one);
            let first = words.len() - words.iter().rev().take_while(same).count();
            if first >= 2 && words[first - 2..first] == ["all", "of:"] { first - 2 } else { last }
        }
        [] => 0,
    }
}

fn claims(plain: &str) -> Vec<Claim> {
    let words: Vec<&str> = plain.split_whitespace().collect();
    let mut found = Vec::new();
    for at in 1..words.len() {
        let Some(verb) = verb_before(&words[..at]) else { continue };
        let before = &words[..at - verb];
        let by = before[subject(before)..].join(" ");
        let by = if by.starts_with("all of:") { before.last().copied().unwrap_or_default().to_owned() } else { by };
        let mut place = at;
        loop {
            found.push(Claim { by: by.clone(), requirement: core(words[place]).to_owned() });
            // `depends on torch==2.4.1 and torch==2.8.0`
            match words.get(place + 1..) {
                Some(["and", _, after @ ..]) if words[place] == core(words[place]) && is_object(after) => place += 2,
                _ => break,
            }
        }
    }
    found
}

/// The text with one bound told as what it is.
fn told(text: &str, bound: &Bound) -> String {
    let lines = text.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let mut new: Vec<String> = Vec::new();
        for (at, word) in words.iter().enumerate() {
            let rest = &word[core(word).len()..];
            let before: Vec<&str> = new.iter().map(String::as_str).collect();
            if core(word) != bound.requirement || !is_object(&words[at + 1..]) {
                new.push((*word).to_owned());
            } else if let Some(verb) = verb_before(&before) {
                new.truncate(subject(&before[..before.len() - verb]));
                new.push(format!("{}{rest}", bound.says));
            } else if before.last() == Some(&"and") {
                new.pop();
                if let Some(last) = new.last_mut().filter(|last| !last.ends_with(',')) {
                    last.push(',');
                }
                new.push(format!("and {}{rest}", bound.says));
            } else {
                new.push((*word).to_owned());
            }
        }
        new.join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn bound(requirement: &str, says: &str) -> Bound {
        Bound { name: name_of(requirement).to_owned(), requirement: requirement.to_owned(), says: says.to_owned() }
    }

    #[test]
    fn a_bound_is_no_requirement_of_whoever_needs_its_package() {
        let base = bound("torch==2.8.0a0+nv25.5", "the base has torch 2.8.0a0+nv25.5");
        let text = "Because xformers==0.0.28 depends on torch==2.4.1 and torch==2.8.0a0+nv25.5, we can conclude that \
                    xformers==0.0.28 cannot be used,\nand because this image depends on xformers==0.0.28";
        assert_snapshot!(attribute(text, std::slice::from_ref(&base)), @r"
        Because xformers==0.0.28 depends on torch==2.4.1, and the base has torch 2.8.0a0+nv25.5, we can conclude that xformers==0.0.28 cannot be used,
        and because this image depends on xformers==0.0.28
        ");
        let all =
            "Because a==1 depends on torch>=2.10 and all of: b<1 b==2 depend on torch==2.8.0a0+nv25.5, we can conclude";
        assert_snapshot!(attribute(all, &[base]), @"Because a==1 depends on torch>=2.10 and the base has torch 2.8.0a0+nv25.5, we can conclude");
        let constraint = bound("numpy<1.20", "the constraint `numpy<1.20` holds");
        let text = "Because pandas==2.2.0 depends on numpy{python_full_version < '3.12'}>=1.23.2,<2 and \
                    numpy{python_full_version < '3.12'}<1.20, we can conclude that pandas==2.2.0 cannot be used";
        assert_snapshot!(attribute(text, &[constraint]), @"Because pandas==2.2.0 depends on numpy>=1.23.2,<2, and the constraint `numpy<1.20` holds, we can conclude that pandas==2.2.0 cannot be used");
        let lock = bound("pyyaml==6.0.4", "`uv.lock` has pyyaml 6.0.4");
        assert_snapshot!(attribute("Because this image depends on pyyaml==5.4 and pyyaml==6.0.4", std::slice::from_ref(&lock)), @"Because this image depends on pyyaml==5.4, and `uv.lock` has pyyaml 6.0.4");
        assert_snapshot!(attribute("Because you require pyyaml==6.0.4 and the stack requires pyyaml==5.4", &[lock]), @"Because `uv.lock` has pyyaml 6.0.4 and the stack requires pyyaml==5.4");
        let over = bound("numpy==1.99", "the override `numpy==1.99` replaces other requirements of numpy");
        let text = "Because there is no version of numpy==1.99 and this image depends on numpy==1.99";
        assert_snapshot!(attribute(text, &[over]), @"Because there is no version of numpy==1.99 and the override `numpy==1.99` replaces other requirements of numpy");
    }

    #[test]
    fn a_subject_with_the_words_of_a_bound_stays() {
        let pinned = bound("torch==2.7.1", "the base has torch 2.7.1");
        let text = "Because torch==2.7.1 depends on sympy>=1.13 and torch==2.7.1 was not found";
        assert_eq!(attribute(text, &[pinned]), text);
    }

    #[test]
    fn a_long_explanation_is_shortened_to_the_claims_against_a_bound() {
        let base = bound("torch==2.8.0a0", "the base has torch 2.8.0a0");
        let text = "Because xformers==0.0.22 depends on torch==2.1.0 and all of: xformers>=0.0.22,<=0.0.33 xformers==0.0.34 \
                    depend on torch==2.8.0a0, we can conclude that xformers==0.0.22 cannot be used,\nand because b,\n\
                    and because c,\nand because d. Because xformers>=0.0.35 depends on torch>=2.10 and torch==2.8.0a0,\n\
                    and because all of: xformers>=0.0.33,<=0.0.33.post1 xformers>=0.0.34.dev1 depend on torch==2.9.0,\n\
                    and because xformers==0.0.20 depends on torch==2.0.1 and this image depends on xformers";
        assert_snapshot!(attribute(text, &[base]), @r"
        xformers>=0.0.35 depends on torch>=2.10,
        xformers>=0.0.34.dev1 depends on torch==2.9.0,
        xformers==0.0.22 depends on torch==2.1.0,
        and 1 more like these,
        and the base has torch 2.8.0a0
        ");
    }
}
