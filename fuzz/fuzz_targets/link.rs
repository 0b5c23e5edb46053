//! What a program or library asks of the loader: any bytes at all.

#![no_main]

use kiln_link::{Node, Object, Settings, Tree, What};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(object)) = Object::read(bytes) {
        let file = |path: &str, object, text| Node { path: path.into(), what: What::File { object, text } };
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).into_owned();
        let mut tree = Tree::new();
        tree.add_layer(vec![
            file("usr/lib/liba.so", Some(Box::new(object.clone())), None),
            file("usr/bin/a", Some(Box::new(object)), None),
            file("etc/ld.so.conf", None, Some(text.clone())),
            Node { path: "lib".into(), what: What::Symlink(text) },
        ]);
        for finding in tree.check(&Settings::default()) {
            assert!(!finding.to_string().is_empty());
        }
    }
});
