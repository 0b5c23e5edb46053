use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Plain = Picture<u32, &'static str>;

fn with_links(links: &[(&str, &str)]) -> Plain {
    let mut picture = Picture::new();
    links.iter().for_each(|(path, target)| picture.put_symlink(path.as_bytes(), target.as_bytes()));
    picture
}

fn text(path: Option<Vec<u8>>) -> Option<String> {
    path.map(|path| String::from_utf8(path).unwrap())
}

#[test]
fn links_are_followed_wherever_they_stand() {
    let mut picture = with_links(&[
        ("bin", "usr/bin"),
        ("usr/bin/python3", "python3.11"),
        ("opt/here", "/bin"),
        ("a/up", "../../bin"),
    ]);
    picture.put_file(b"usr/bin/python3.11", "python");
    for path in ["/bin/python3", "./opt/here//python3", "a/up/python3.11", "../../bin/../bin/python3"] {
        assert_eq!(text(picture.resolve(path.as_bytes())).as_deref(), Some("usr/bin/python3.11"), "{path}");
    }
    assert_eq!(text(picture.landing(b"bin")).as_deref(), Some("bin"));
    assert_eq!(text(picture.landing(b"bin/python3")).as_deref(), Some("usr/bin/python3"));
    assert_eq!(text(picture.landing(b"opt/here/new/x")).as_deref(), Some("usr/bin/new/x"));
    assert_eq!(picture.landing(b"usr/bin/python3.11/x"), None);
}

#[test]
fn a_loop_of_links_leads_nowhere_and_nothing_lands_there() {
    let picture = with_links(&[("a", "b"), ("b", "a"), ("c", "c/c")]);
    for path in ["a/x", "c", "c/x"] {
        assert_eq!(picture.resolve(path.as_bytes()), None);
    }
    assert_eq!(picture.landing(b"a/x"), None);
    assert_eq!(text(picture.landing(b"a")).as_deref(), Some("a"));
}

#[test]
fn a_whiteout_spares_its_own_layer_whatever_comes_first() {
    let mut picture = Plain::new();
    for path in ["etc/old", "etc/deep/old", "gone/x"] {
        picture.put_file(path.as_bytes(), "old");
    }
    picture.next_layer();
    picture.put_file(b"etc/new", "new");
    picture.put_file(b"etc/deep/new", "new");
    picture.whiteout(b"etc");
    picture.opaque(b"gone");
    picture.put_file(b"etc/newer", "new");
    for path in ["etc/new", "etc/deep/new", "etc/newer", "gone"] {
        assert!(picture.find(path.as_bytes()).is_some(), "{path}");
    }
    for path in ["etc/old", "etc/deep/old", "gone/x"] {
        assert_eq!(picture.find(path.as_bytes()), None, "{path}");
    }
    picture.next_layer();
    picture.whiteout(b"etc");
    assert_eq!(picture.find(b"etc"), None);
}

#[test]
fn a_directory_keeps_its_content_and_says_what_the_uppermost_layer_says() {
    let mut picture = Plain::new();
    picture.put_file(b"a/file", "");
    assert_eq!(picture.node(picture.find(b"a").unwrap()), Node::Directory(None));
    picture.put_directory(b"a", 1);
    picture.put_directory(b"./", 7);
    picture.next_layer();
    picture.put_directory(b"a/", 2);
    assert_eq!(picture.node(picture.find(b"a").unwrap()), Node::Directory(Some(&2)));
    assert_eq!(picture.node(ROOT), Node::Directory(Some(&7)));
    assert_eq!(picture.file(b"a/file"), Some(&""));
    // A directory takes the place of a link, and a file that of a directory with all that is in it.
    picture.put_symlink(b"link", b"a");
    picture.put_directory(b"link", 3);
    assert_eq!(picture.node(picture.entry(b"link").unwrap()), Node::Directory(Some(&3)));
    picture.put_file(b"a", "file");
    assert_eq!(picture.find(b"a/file"), None);
}

#[test]
fn a_hard_link_is_the_same_file_whatever_becomes_of_its_first_name() {
    let mut picture = Plain::new();
    picture.put_file(b"a/x", "content");
    picture.put_hard_link(b"b/y", b"a/x");
    picture.put_hard_link(b"b/z", b"nowhere");
    assert_eq!(picture.find(b"a/x"), picture.find(b"b/y"));
    picture.next_layer();
    picture.whiteout(b"a");
    assert_eq!((picture.file(b"b/y"), picture.find(b"b/z")), (Some(&"content"), None));
}

/// The rules once more, over whole paths: slow, and short enough to be seen to be right. It knows no links.
#[derive(Default)]
struct Paths(BTreeMap<String, (u32, Option<u32>)>);

impl Paths {
    fn put(&mut self, path: &str, layer: u32, directory: Option<u32>) {
        let above: Vec<&str> = path.match_indices('/').map(|(end, _)| &path[..end]).collect();
        if above.iter().any(|path| self.0.get(*path).is_some_and(|found| found.1.is_none())) {
            return;
        }
        for directory in above {
            self.0.entry(directory.to_owned()).or_insert((layer, Some(0))).0 = layer;
        }
        let keeps = directory.is_some() && self.0.get(path).is_some_and(|found| found.1.is_some());
        if !keeps {
            self.0.retain(|other, _| !other.starts_with(&format!("{path}/")));
        }
        self.0.insert(path.to_owned(), (layer, directory));
    }

    fn hide(&mut self, path: &str, layer: u32, itself: bool) {
        let is_file = self.0.get(path).is_some_and(|found| found.1.is_none());
        self.0.retain(|other, (of, _)| {
            let hidden = (itself && other == path) || (!is_file && other.starts_with(&format!("{path}/")));
            !hidden || *of == layer
        });
    }
}

proptest! {
    #[test]
    fn layers_stack_as_the_rules_say(
        layers in prop::collection::vec(prop::collection::vec((0..5_u8, "[ab](/[ab]){0,3}"), 0..12), 0..4)
    ) {
        let (mut picture, mut paths) = (Picture::<u32, ()>::new(), Paths::default());
        for (at, layer) in layers.iter().enumerate() {
            let number = at as u32;
            for (kind, path) in layer {
                match kind {
                    0 => { picture.put_directory(path.as_bytes(), 0); paths.put(path, number, Some(0)); }
                    1 | 2 => { picture.put_file(path.as_bytes(), ()); paths.put(path, number, None); }
                    3 => { picture.whiteout(path.as_bytes()); paths.hide(path, number, true); }
                    _ => { picture.opaque(path.as_bytes()); paths.hide(path, number, false); }
                }
            }
            let mut found = BTreeMap::new();
            picture.visit(ROOT, |path, node| {
                let directory = matches!(picture.node(node), Node::Directory(_));
                found.insert(String::from_utf8(path.to_vec()).unwrap(), directory);
            });
            let expected: BTreeMap<String, bool> =
                paths.0.iter().map(|(path, (_, directory))| (path.clone(), directory.is_some())).collect();
            prop_assert_eq!(found, expected);
            picture.next_layer();
        }
    }

    #[test]
    fn any_path_leads_somewhere_without_links_or_nowhere(
        links in prop::collection::vec(("[abc.](/[abc.]){0,2}", "/{0,1}[abc.]{1,2}(/[abc.]{1,2}){0,3}"), 0..12),
        asked in "/{0,1}[abc.]{1,2}(/[abc.]{1,2}){0,4}",
    ) {
        let links: Vec<(&str, &str)> = links.iter().map(|(path, target)| (path.as_str(), target.as_str())).collect();
        let picture = with_links(&links);
        if let Some(real) = picture.resolve(asked.as_bytes()) {
            prop_assert_eq!(picture.resolve(&real), Some(real.clone()));
        }
        if let Some(landing) = picture.landing(asked.as_bytes()) {
            prop_assert_eq!(picture.landing(&landing), Some(landing.clone()));
        }
    }
}
