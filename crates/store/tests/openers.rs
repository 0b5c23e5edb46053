//! Content opened in its middle, as an interrupted upload does.

use std::io::Read;

use kiln_plan::digest::Digest;
use kiln_store::Store;

#[test]
fn content_reads_the_same_from_every_byte_on_whether_a_file_or_a_recipe() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let wheel = b"0123456789abcdefghij";
    let source = store.add(wheel).unwrap();
    let whole = b"<789abc><0123>";
    let digest = Digest::of(whole);
    let mut recipe = store.recipe_writer(vec![source]).unwrap();
    recipe.inline(b"<").unwrap();
    recipe.range(0, 7, 6);
    recipe.inline(b"><").unwrap();
    recipe.range(0, 0, 4);
    recipe.inline(b">").unwrap();
    recipe.finish(&digest).unwrap();
    for (digest, whole) in [(digest, whole.as_slice()), (source, wheel.as_slice())] {
        let opener = store.opener(&digest).unwrap();
        for from in 0..=whole.len() {
            let mut rest = Vec::new();
            opener.open(from as u64).unwrap().read_to_end(&mut rest).unwrap();
            assert_eq!(rest, whole[from..], "from {from}");
        }
    }
}

#[test]
fn content_that_is_not_complete_has_no_opener() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let source = Digest::of(b"somewhere else");
    let mut recipe = store.recipe_writer(vec![source]).unwrap();
    recipe.range(0, 0, 4);
    let digest = Digest::of(b"some");
    recipe.finish(&digest).unwrap();
    assert_eq!(store.opener(&digest).unwrap_err().to_string(), format!("{source} is not in the store"));
}
