//! Files made here, byte by byte, and trees made of them.

mod closure;
mod elf;
mod object;
mod tree;

use crate::{Finding, Node, Object, Outcome, Settings, Tree, What};
use elf::Builder;

/// A file with this object.
fn file(path: &str, builder: Builder) -> Node {
    let object = Object::read(builder.build().as_slice()).unwrap().unwrap();
    node(path, What::File { object: Some(Box::new(object)), text: None })
}

fn text(path: &str, text: &str) -> Node {
    node(path, What::File { object: None, text: Some(text.to_owned()) })
}

fn link(path: &str, target: &str) -> Node {
    node(path, What::Symlink(target.to_owned()))
}

fn node(path: &str, what: What) -> Node {
    Node { path: path.to_owned(), what }
}

fn tree(nodes: Vec<Node>) -> Tree {
    let mut tree = Tree::new();
    tree.add_layer(nodes);
    tree
}

/// A C library that provides these versions.
fn libc(path: &str, provides: &[&str]) -> Node {
    let builder = provides.iter().fold(elf::library("libc.so.6"), |builder, version| builder.provides(version));
    file(path, builder)
}

/// What is said of a tree, in sentences.
fn said(tree: &Tree) -> Vec<String> {
    check(tree).iter().map(ToString::to_string).collect()
}

fn check(tree: &Tree) -> Vec<Finding> {
    tree.check(&Settings::default())
}

/// Where a program's one library is found.
fn found(tree: &Tree, program: &str) -> Option<String> {
    let loads = tree.loads(program, &Settings::default());
    let [load] = loads.as_slice() else { panic!("{loads:?}") };
    load.path.clone()
}

fn outcomes(tree: &Tree) -> Vec<Outcome> {
    check(tree).into_iter().map(|finding| finding.outcome).collect()
}
