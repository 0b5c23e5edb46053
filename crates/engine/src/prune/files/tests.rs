//! Directories of libraries, pruned where they are and on the way to a copy.

use kiln_fatbin::testing::{Library, entry};

use super::*;

const CUBIN: u16 = 2;

#[test]
fn a_directory_keeps_permissions_and_names_of_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    fs_err::create_dir_all(tree.join("lib")).unwrap();
    let cubins = [80, 90].map(|number| entry(CUBIN, number, 0, 30_000));
    let library = Library::new().region(&cubins).region(&cubins).finish();
    fs_err::write(tree.join("lib/a.so"), &library).unwrap();
    fs_err::set_permissions(tree.join("lib/a.so"), std::fs::Permissions::from_mode(0o555)).unwrap();
    fs_err::hard_link(tree.join("lib/a.so"), tree.join("lib/b.so")).unwrap();
    fs_err::hard_link(tree.join("lib/a.so"), directory.path().join("cache.so")).unwrap();
    fs_err::os::unix::fs::symlink("a.so", tree.join("lib/link.so")).unwrap();
    fs_err::write(tree.join("notes.txt"), "notes").unwrap();
    let gpus = vec!["9.0".parse().unwrap()];
    let selection = Selection { gpus, keep_ptx: false, drop_relocatable: false };
    let tools = FilePruner { selection: &selection, names: &GpuNames::default(), threads: 2, advance: &|_| Ok(()) };
    let copy = directory.path().join("copy");
    let check = |tree: &Path| {
        let found = |name: &str| fs_err::metadata(tree.join(name)).unwrap();
        assert_eq!((found("lib/a.so").ino(), found("lib/a.so").mode() & 0o777), (found("lib/b.so").ino(), 0o555));
        assert!(found("lib/a.so").len() < library.len() as u64);
        assert_eq!(fs_err::read_link(tree.join("lib/link.so")).unwrap(), Path::new("a.so"));
        assert_eq!(fs_err::read_to_string(tree.join("notes.txt")).unwrap(), "notes");
        assert_eq!(fs_err::read_dir(tree.join("lib")).unwrap().count(), 3);
    };
    assert_eq!(tools.tree_to(&tree, &copy).unwrap().len(), 1);
    check(&copy);
    assert_eq!(fs_err::metadata(tree.join("lib/a.so")).unwrap().len(), library.len() as u64);
    assert_eq!(tools.tree_in_place(&tree).unwrap().len(), 1);
    check(&tree);
    // Other names of the file, as in the cache of an installer, keep what they had.
    assert_eq!(fs_err::read(directory.path().join("cache.so")).unwrap(), library);
}
