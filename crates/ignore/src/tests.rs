//! The rules of both programs, as examples. `cargo xtask interop --only ignored` compares generated ones with the programs.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// The paths of a tree that stay out; those with a slash at the end are directories.
fn out<'t>(rules: &Rules, tree: &[&'t str]) -> Vec<&'t str> {
    let excluded = |path: &&&str| {
        let name = path.trim_end_matches('/');
        rules.decide(name.as_bytes(), path.ends_with('/')).is_some_and(|decided| decided.excluded)
    };
    tree.iter().filter(excluded).copied().collect()
}

fn git(text: &str, tree: &[&'static str]) -> Vec<&'static str> {
    out(&Rules::git(text.as_bytes()), tree)
}

fn docker(text: &str, tree: &[&'static str]) -> Vec<&'static str> {
    out(&Rules::docker(text.as_bytes()).unwrap(), tree)
}

fn refused(text: &str) -> String {
    Rules::docker(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn git_matches_a_name_at_any_depth_and_a_path_from_the_top() {
    let tree = ["foo", "a/", "a/foo", "a/b/", "a/b/foo"];
    assert_eq!(git("foo", &tree), ["foo", "a/foo", "a/b/foo"]);
    assert_eq!(git("/foo", &tree), ["foo"]);
    assert_eq!(git("a/foo", &tree), ["a/foo"]);
    assert_eq!(git("b/foo", &tree), [""; 0]);
    assert_eq!(git("**/b/foo", &tree), ["a/b/foo"]);
}

#[test]
fn git_takes_a_slash_at_the_end_for_directories_alone() {
    assert_eq!(git("foo/", &["foo", "a/foo/", "a/foo/x"]), ["a/foo/", "a/foo/x"]);
}

#[test]
fn git_brings_nothing_back_below_what_is_out() {
    let tree = ["a/", "a/b", "a/c"];
    assert_eq!(git("a\n!a/b", &tree), tree);
    assert_eq!(git("a/*\n!a/b", &tree), ["a/c"]);
    assert_eq!(git("!a/b\na/*", &tree), ["a/b", "a/c"]);
}

#[test]
fn git_reads_lines_as_its_manual_says() {
    assert_eq!(git("# no\n\\#c\n\\!n\n", &["# no", "#c", "!n"]), ["#c", "!n"]);
    assert_eq!(git("a  \nb\\ \nc\t\n", &["a", "b ", "b", "c", "c\t"]), ["a", "b ", "c\t"]);
    assert_eq!(git("\u{FEFF}a\r\nb\r\n", &["a", "b"]), ["a", "b"]);
    assert_eq!(git("a\0b", &["a"]), ["a"]);
    assert_eq!(git("/\n//\n!\n\n\r\n", &["a", "a/"]), [""; 0]);
}

#[test]
fn git_knows_asterisks_question_marks_and_brackets() {
    let tree = ["a/", "a/b", "a/b.c", "a/x/y/b", "ab", "a-b", "a]", "\u{e9}"];
    assert_eq!(git("a/*", &tree), ["a/b", "a/b.c", "a/x/y/b"]);
    assert_eq!(git("a/*b", &tree), ["a/b"]);
    assert_eq!(git("a/**", &tree), ["a/b", "a/b.c", "a/x/y/b"]);
    assert_eq!(git("a/**/b", &tree), ["a/b", "a/x/y/b"]);
    assert_eq!(git("a?b", &tree), ["a-b"]);
    assert_eq!(git("a[]-]*", &tree), ["a-b", "a]"]);
    assert_eq!(git("a[!]-]", &tree), ["ab"]);
    assert_eq!(git("a[[:alpha:]]", &tree), ["ab"]);
    assert_eq!(git("a[[:nope:]b]\na[b\nab\\", &tree), [""; 0]);
    assert_eq!(git("??", &["\u{e9}", "\u{20ac}"]), ["\u{e9}"], "two bytes");
}

#[test]
fn git_takes_two_asterisks_after_plain_text_for_whole_names() {
    assert_eq!(git("a**/b", &["ab", "a/b", "a/x/b", "axb", "ax/b"]), ["ab", "a/b", "a/x/b", "ax/b"]);
}

#[test]
fn git_tells_the_last_line_that_matches() {
    let rules = Rules::git(b"*.log\n\n# kept\n!keep.log\n");
    assert_eq!(rules.decide(b"x.log", false), Some(Match { line: 1, excluded: true }));
    assert_eq!(rules.decide(b"a/keep.log", false), Some(Match { line: 4, excluded: false }));
    assert_eq!(rules.decide(b"a", true), None);
}

#[test]
fn docker_counts_patterns_from_the_top_and_leaves_out_what_is_below() {
    let tree = ["foo/", "foo/x", "a/", "a/foo", "a/b/", "a/b/foo"];
    assert_eq!(docker("foo", &tree), ["foo/", "foo/x"]);
    assert_eq!(docker("/foo/", &tree), ["foo/", "foo/x"]);
    assert_eq!(docker("*/foo", &tree), ["a/foo"]);
    assert_eq!(docker("**/foo", &tree), ["foo/", "foo/x", "a/foo", "a/b/foo"]);
    assert_eq!(docker("./x/../a//b", &tree), ["a/b/", "a/b/foo"]);
}

#[test]
fn docker_brings_back_what_is_below_something_that_is_out() {
    let tree = ["a/", "a/b", "a/c", "d"];
    assert_eq!(docker("a\n!a/b", &tree), ["a/", "a/c"]);
    assert_eq!(docker("*\n!d", &tree), ["a/", "a/b", "a/c"]);
    assert_eq!(docker("!a/b\na", &tree), ["a/", "a/b", "a/c"]);
    assert_eq!(docker("a\n!**/b", &tree), ["a/", "a/c"]);
}

#[test]
fn docker_walks_directories_that_are_out_only_where_an_exception_may_match() {
    let inside = |text: &str, directory: &str| {
        let rules = Rules::docker(text.as_bytes()).unwrap();
        rules.look(&rules.root(), directory.as_bytes(), true).inside.is_some()
    };
    assert!(!inside("a", "a"));
    assert!(inside("a", "b"));
    assert!(inside("a\n!a/b/c", "a"));
    assert!(!inside("a\n!ab/c", "a"));
    assert!(inside("a\n!*.md", "a"));
    assert_eq!(docker("a\n!a/*/**", &["a/b/c"]), ["a/b/c"], "Docker stops at `a/b`");
}

#[test]
fn docker_compares_no_line_that_changes_nothing_and_forgets_it_below() {
    assert_eq!(docker("a\n!a/b\na", &["a/b", "a/c"]), ["a/c"]);
}

#[test]
fn docker_reads_lines_as_its_parser_does() {
    assert_eq!(docker("#a\n #a\n", &["#a"]), ["#a"]);
    assert_eq!(docker("\u{FEFF}a\r\n  b\u{a0} \n! c\n", &["a", "b", "c"]), ["a", "b"]);
    assert_eq!(docker("./!a\n*\n", &["a", "b"]), ["a", "b"]);
    assert_eq!(docker("*\n./!a\n", &["a", "b"]), ["b"]);
}

#[test]
fn docker_makes_expressions_of_patterns() {
    assert_eq!(docker("**foo", &["foo", "xfoo", "a/xfoo"]), ["foo", "xfoo", "a/xfoo"]);
    assert_eq!(docker("a[!b]c", &["a!c", "abc", "axc"]), ["a!c", "abc"]);
    assert_eq!(docker("a[^b]c", &["a!c", "abc", "axc", "a/c"]), ["a!c", "axc", "a/c"]);
    assert_eq!(docker("^a*", &["^ab", "ab"]), ["ab"]);
    assert_eq!(docker("a+(b)*", &["a+(b)", "aab"]), ["a+(b)"]);
    assert_eq!(docker("a|b*", &["a|b", "ax", "xb", "x"]), ["a|b", "ax", "xb"]);
    assert_eq!(docker("a{2}*", &["aa", "a{2}"]), ["aa"]);
    assert_eq!(docker("a{2}\nb|c", &["aa", "a{2}", "b", "b|c"]), ["a{2}", "b|c"]);
    assert_eq!(docker("v\\d*", &["v1", "vd"]), ["v1"]);
    assert_eq!(docker("\\[x\\]\n\\*", &["[x]", "*", "y"]), ["[x]", "*"]);
    assert_eq!(docker("[[:upper:]_]?", &["Ab", "_b", "ab"]), ["Ab", "_b"]);
    assert_eq!(docker("?", &["\u{e9}", "\u{20ac}", "ab"]), ["\u{e9}", "\u{20ac}"], "one character");
}

#[test]
fn docker_refuses_the_file_for_a_pattern_that_it_cannot_use() {
    assert_eq!(refused("a\n[b\n"), "`[b` in line 2: syntax error in pattern");
    assert_eq!(refused("a\\"), "`a\\` in line 1: syntax error in pattern");
    assert_eq!(refused("[b-a]"), "`[b-a]` in line 1: syntax error in pattern");
    assert_eq!(refused("a\\e*"), "`a\\e*` in line 1: syntax error in pattern");
    assert_eq!(refused("!"), "`!` in line 1: `!` needs a pattern");
    assert_eq!(refused("! /"), "`! /` in line 1: `!` needs a pattern");
    assert_eq!(refused("\\pL"), "`\\pL` in line 1: `\\p`, `\\P` and `\\Q` are not supported");
    let long = format!("a\n{}", "b".repeat(65_536));
    assert!(refused(&long).ends_with("` in line 2: the line is longer than 65535 bytes"));
    assert!(Rules::docker(&long.as_bytes()[..long.len() - 1]).is_ok());
}

#[test]
fn names_may_be_any_bytes() {
    let out = |rules: &Rules, path: &[u8]| rules.decide(path, false).is_some();
    assert!(out(&Rules::git(b"\xFFa"), b"x/\xFFa"));
    assert!(out(&Rules::git(b"[\xF0-\xFF]a"), b"\xFFa"));
    assert!(!out(&Rules::git(b"[\xF0-\xFF]a"), b"\xEFa"));
    let rules = Rules::docker(b"?a\n\xFFb\n*\xFFc\n").unwrap();
    assert!(out(&rules, b"\xFFa"));
    assert!(!out(&rules, b"\xFFb"), "Docker's patterns are text");
    assert!(out(&rules, b"\xFEc"), "each byte that is none is the same character");
}

#[test]
fn lines_that_match_nothing_are_known() {
    for rules in [Rules::git(b"a\n# b\nc  \n!d\n"), Rules::docker(b"a\n# b\n c\n!d\n").unwrap()] {
        let mut unmatched = rules.unmatched();
        unmatched.see(b"a", false);
        unmatched.see(b"x", true);
        let left: Vec<_> = unmatched.lines().map(|line| (line.number, String::from_utf8_lossy(line.text))).collect();
        assert_eq!(left, [(3, "c".into()), (4, "!d".into())]);
    }
}

/// Text that is likely to be special.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let special = prop::sample::select(b"ab/*?[]!^-\\{}|.,:=123\n\r #$()\xEF\xBB\xBF\xFF".to_vec());
    vec(prop_oneof![9 => special, 1 => any::<u8>()], 0..40)
}

proptest! {
    #[test]
    fn no_text_and_no_path_is_too_much(text in text(), path in text()) {
        let rules = Rules::git(&text);
        rules.decide(&path, true);
        if let Ok(rules) = Rules::docker(&text) {
            rules.decide(&path, true);
            rules.unmatched().see(&path, false);
        }
    }

    #[test]
    fn a_walk_and_a_single_question_agree(text in text(), paths in vec("[ab]{1,2}(/[ab]{1,2}){0,3}", 1..8)) {
        let rules = match Rules::docker(&text) {
            Ok(rules) => rules,
            Err(_) => Rules::git(&text),
        };
        let mut directories = BTreeSet::new();
        for path in &paths {
            directories.extend(path.match_indices('/').map(|(at, _)| path[..at].to_owned()));
        }
        let mut states = std::collections::BTreeMap::from([(String::new(), rules.root())]);
        for path in &directories {
            let above = path.rsplit_once('/').map_or("", |(above, _)| above);
            let Some(state) = states.get(above) else { continue };
            let found = rules.look(state, path.as_bytes(), true);
            prop_assert_eq!(found.decided, rules.decide(path.as_bytes(), true));
            if let Some(inside) = found.inside {
                states.insert(path.clone(), inside);
            }
        }
    }
}
