use proptest::prelude::*;

use super::elf::{library, program};
use super::{file, libc, link, node, said, text, tree};
use crate::{Node, Settings, Tree, What, is_configuration};

fn plain(path: &str) -> Node {
    node(path, What::File { object: None, text: None })
}

#[test]
fn links_are_followed_as_the_kernel_does() {
    let tree = tree(vec![
        plain("usr/lib/x/liba.so.1.2"),
        link("usr/lib/x/liba.so.1", "liba.so.1.2"),
        link("lib", "usr/lib"),
        link("opt/here", "../lib/x"),
        link("opt/root", "/"),
    ]);
    let real = Some("usr/lib/x/liba.so.1.2".to_owned());
    for path in ["lib/x/liba.so.1", "/lib//x/./liba.so.1", "opt/here/liba.so.1", "opt/root/lib/x/liba.so.1"] {
        assert_eq!(tree.resolve(path), real, "{path}");
    }
    // Above where a link leads is not above the link, and above the root is the root.
    assert_eq!(tree.resolve("opt/here/../x/liba.so.1"), real);
    assert_eq!(tree.resolve("../../lib/x/liba.so.1"), real);
    assert_eq!(tree.resolve("usr/lib/x/liba.so.1.2/.."), None);
    assert_eq!(tree.resolve("lib/nothing"), None);
    assert_eq!(tree.resolve(""), Some(String::new()));
}

#[test]
fn links_that_lead_round_in_circles_end() {
    let tree = tree(vec![link("a", "b"), link("b", "a"), link("c", "c/c"), link("d", "d/../d")]);
    for path in ["a", "b/x", "c", "d"] {
        assert_eq!(tree.resolve(path), None);
    }
}

#[test]
fn upper_layers_hide_and_replace_what_is_below() {
    let mut tree = tree(vec![plain("a/one"), plain("a/two"), plain("b/one"), plain("c"), link("lib", "usr/lib")]);
    tree.add_layer(vec![
        plain("b/new"),
        node("b", What::Opaque),
        node("a/one", What::Whiteout),
        node("c", What::Directory),
        plain("c/inside"),
        // Through a link of the layer below.
        plain("lib/file"),
    ]);
    for path in ["a/two", "b/new", "c/inside", "usr/lib/file"] {
        assert!(tree.resolve(path).is_some(), "{path}");
    }
    for path in ["a/one", "b/one"] {
        assert_eq!(tree.resolve(path), None, "{path}");
    }
    // A directory over a directory leaves what is in it; a file does not.
    tree.add_layer(vec![node("a", What::Directory), plain("b")]);
    assert!(tree.resolve("a/two").is_some());
    assert_eq!(tree.resolve("b/new"), None);
}

#[test]
fn a_hard_link_is_the_same_file_whatever_becomes_of_its_first_name() {
    let mut tree =
        tree(vec![file("a/liba.so", library("liba.so")), node("b/liba.so", What::HardLink("a/liba.so".into()))]);
    assert_eq!(tree.objects().len(), 1);
    tree.add_layer(vec![node("a", What::Whiteout), node("x", What::HardLink("nowhere".into()))]);
    assert!(tree.object("b/liba.so").is_some());
    assert_eq!(tree.resolve("x"), None);
}

#[test]
fn paths_that_lead_out_of_the_root_are_left_out() {
    let mut tree = tree(vec![plain("../a"), plain("b/../../c"), plain("d"), plain("d/below"), plain(""), plain("/")]);
    tree.add_layer(vec![link("e", "e"), plain("e/below"), plain(&"x/".repeat(4000)), plain("./f"), plain("/g/")]);
    let there: Vec<_> = ["a", "b", "c", "d", "d/below", "x", "f", "g"]
        .into_iter()
        .filter(|path| tree.resolve(path).is_some())
        .collect();
    assert_eq!(there, ["d", "f", "g"]);
}

#[test]
fn what_lies_beyond_a_link_is_made_where_it_leads() {
    let tree = tree(vec![link("var/run", "/run"), plain("var/run/lock/file")]);
    assert_eq!(tree.resolve("run/lock/file").as_deref(), Some("run/lock/file"));
}

#[test]
fn directories_of_the_configuration_are_searched_in_its_order() {
    assert!(["etc/ld.so.conf", "./etc/ld.so.conf.d/cuda.conf", "/etc/ld.so.conf"].into_iter().all(is_configuration));
    assert!(
        !["etc/ld.so.conf.d/x.sh", "x/etc/ld.so.conf", "etc/ld.so.conf.d/a/b.conf"].into_iter().any(is_configuration)
    );
    let whole = |conf: &str| {
        tree(vec![
            text("etc/ld.so.conf", conf),
            text("etc/ld.so.conf.d/b.conf", "/opt/b\n"),
            text("etc/ld.so.conf.d/a.conf", "# /opt/no\n  /opt/a # here\nhwcap 1 x\n"),
            text("etc/ld.so.conf.d/c.off", "/opt/c\n"),
            // Which includes itself.
            text("etc/ld.so.conf.d/loop.conf", "include ../ld.so.conf\ninclude /etc/ld.so.conf.d/loop.conf\n"),
            file("opt/a/libx.so.1", library("libx.so.1")),
            file("opt/b/libx.so.1", library("libx.so.1")),
            file("opt/c/libx.so.1", library("libx.so.1")),
            file("usr/lib/libx.so.1", library("libx.so.1")),
            file("bin/p", program().needs("libx.so.1")),
        ])
    };
    let found = |conf: &str| super::found(&whole(conf), "bin/p").unwrap();
    assert_eq!(found("include /etc/ld.so.conf.d/*.conf\n"), "opt/a/libx.so.1");
    assert_eq!(found("include ld.so.conf.d/?.conf"), "opt/a/libx.so.1");
    assert_eq!(found("/opt/b\n/opt/b\ninclude /etc/ld.so.conf.d/a.conf"), "opt/b/libx.so.1");
    assert_eq!(found("/opt/c=libc6"), "opt/c/libx.so.1");
    assert_eq!(found("include /etc/ld.so.conf.d/loop*f"), "usr/lib/libx.so.1");
    assert_eq!(found("/nowhere\nopt/a\n"), "usr/lib/libx.so.1");
}

#[test]
fn a_directory_on_disk_is_its_own_root() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, bytes: &[u8]| {
        let path = folder.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, bytes).unwrap();
    };
    write("opt/lib/liba.so.1.0", &library("liba.so.1").build());
    write("usr/bin/p", &program().needs("liba.so.1").build());
    write("usr/bin/script", b"#!/bin/sh\n");
    write("usr/bin/cut", &program().build()[..100]);
    write("etc/ld.so.conf", b"/opt/link\n");
    let symlink = |target: &str, path: &str| std::os::unix::fs::symlink(target, folder.path().join(path)).unwrap();
    symlink("liba.so.1.0", "opt/lib/liba.so.1");
    // On the host, this leads somewhere else.
    symlink("/opt/lib", "opt/link");
    symlink("/", "opt/lib/round");
    let tree = Tree::of_directory(folder.path(), 2).unwrap();
    assert_eq!(super::found(&tree, "usr/bin/p").as_deref(), Some("opt/link/liba.so.1"));
    let paths: Vec<String> = tree.objects().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["opt/lib/liba.so.1.0", "usr/bin/p"]);
    assert_eq!(said(&tree), [""; 0]);
    assert!(Tree::of_directory(&folder.path().join("nowhere"), 1).is_err());
}

#[test]
fn layers_survive_being_written_as_json() {
    let nodes = vec![
        libc("lib/libc.so.6", &["GLIBC_2.36"]),
        link("a", "b"),
        text("etc/ld.so.conf", "/opt"),
        node("c", What::Whiteout),
        node("d", What::HardLink("e".into())),
    ];
    let json = serde_json::to_string(&nodes).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Node>>(&json).unwrap(), nodes);
    assert_eq!(serde_json::to_string(&nodes[1]).unwrap(), r#"{"path":"a","what":{"symlink":"b"}}"#);
}

/// Paths of few letters, so that they meet.
fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "lib", "..", ".", ""]), 0..5)
        .prop_map(|parts| parts.join("/"))
}

fn what() -> impl Strategy<Value = What> {
    let object = || match file("x", library("a").needs("b").runpath("$ORIGIN/..:/lib").needs("/a/b")).what {
        What::File { object, .. } => object,
        _ => None,
    };
    prop_oneof![
        Just(What::Directory),
        path().prop_map(What::Symlink),
        path().prop_map(|path| What::Symlink(format!("/{path}"))),
        path().prop_map(What::HardLink),
        Just(What::File { object: object(), text: None }),
        Just(What::File { object: None, text: Some("include *\n/lib".into()) }),
        Just(What::Whiteout),
        Just(What::Opaque),
    ]
}

proptest! {
    #[test]
    fn no_layers_make_it_panic_and_what_resolves_is_there(
        layers in prop::collection::vec(prop::collection::vec((path(), what()), 0..12), 1..4),
        asked in path(),
    ) {
        let mut tree = Tree::new();
        for layer in layers {
            tree.add_layer(layer.into_iter().map(|(path, what)| Node { path, what }).collect());
        }
        if let Some(real) = tree.resolve(&asked) {
            prop_assert_eq!(tree.resolve(&real), Some(real.clone()));
        }
        let _ = tree.check(&Settings { library_path: vec![asked.clone(), "/b".into()], ..Settings::default() });
        for (path, _) in tree.objects() {
            let _ = tree.loads(&path, &Settings::default());
        }
    }
}
