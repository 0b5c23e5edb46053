//! A tree with one program: this test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Makes a tree that holds this program as `/attack`, its libraries where they are on the host, and some files.
pub(crate) fn make(at: &Path) {
    let own = std::env::current_exe().unwrap();
    fs_err::create_dir_all(at.join("data")).unwrap();
    fs_err::copy(&own, at.join("attack")).unwrap();
    fs_err::write(at.join("data/file"), "original").unwrap();
    for library in libraries(&own) {
        let real = fs_err::canonicalize(&library).unwrap();
        for place in [library, real.clone()] {
            let to = at.join(place.strip_prefix("/").unwrap());
            fs_err::create_dir_all(to.parent().unwrap()).unwrap();
            fs_err::copy(&real, to).unwrap();
        }
    }
}

/// Returns the files that this process has mapped to run, and the places at which programs look for the loader.
fn libraries(own: &Path) -> BTreeSet<PathBuf> {
    let maps = fs_err::read_to_string("/proc/self/maps").unwrap();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    let mut paths: BTreeSet<PathBuf> = paths.filter(|path| path != own && path.is_file()).collect();
    let loaders = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"].map(PathBuf::from);
    paths.extend(loaders.into_iter().filter(|path| path.exists()));
    paths
}
