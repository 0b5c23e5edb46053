use super::*;

fn file(path: &str) -> (LayerFile, ()) {
    (LayerFile::bytes(path, "x"), ())
}

fn directory(path: &str) -> (LayerFile, ()) {
    (LayerFile::directory(path), ())
}

/// A base with a merged `/usr`, a temporary directory, a home, and a link to a directory of programs.
fn base() -> Below {
    let lines = |lines: &[&str]| lines.iter().map(|line| line.parse().unwrap()).collect();
    Below::of(
        &BaseFacts {
            links: ["/bin -> usr/bin", "/lib -> usr/lib", "/app -> /srv/app", "/gone -> nowhere", "/opt -> data/opt"]
                .map(|line| line.parse().unwrap())
                .into(),
            directories: lines(&["/tmp 1777 0:0", "/home/alice/** 0700 1000:1000", "/root 0700 0:0"]),
            folders: ["usr(bin lib)", "tmp", "home(alice(src(deep)))", "root", "srv(app)", "etc", "data(opt)"]
                .map(|line| line.parse().unwrap())
                .into(),
            ..BaseFacts::default()
        },
        "base",
    )
}

/// The members of a layer, one a line.
fn laid(below: &mut Below, manner: &Manner, files: Vec<(LayerFile, ())>) -> Result<String, String> {
    let laid = below.lay("copy", manner, files).map_err(|error| error.to_string())?;
    let line = |(file, _): &(LayerFile, Option<()>)| {
        let kind = match &file.body {
            Body::Directory => "/".to_owned(),
            Body::Symlink(to) => format!(" -> {to}"),
            _ => String::new(),
        };
        format!("{:04o} {}:{} {}{kind}", file.mode, file.owner.0, file.owner.1, file.path)
    };
    Ok(laid.files.iter().map(line).collect::<Vec<_>>().join(", "))
}

fn lay(files: Vec<(LayerFile, ())>) -> Result<String, String> {
    laid(&mut base(), &Manner::default(), files)
}

#[test]
fn directories_above_a_file_are_stated_as_they_are() {
    assert_eq!(lay(vec![file("tmp/seed")]).unwrap(), "1777 0:0 tmp/, 0644 0:0 tmp/seed");
    assert_eq!(
        lay(vec![file("home/alice/src/deep/x")]).unwrap(),
        "0755 0:0 home/, 0700 1000:1000 home/alice/, 0700 1000:1000 home/alice/src/, \
         0700 1000:1000 home/alice/src/deep/, 0644 0:0 home/alice/src/deep/x"
    );
}

#[test]
fn directories_that_must_be_made_are_the_copys_own() {
    let manner = Manner { parents: Attributes { owner: (7, 8), ..Attributes::default() }, ..Manner::default() };
    let made = laid(&mut base(), &manner, vec![file("etc/a/b/c")]).unwrap();
    assert_eq!(made, "0755 0:0 etc/, 0755 7:8 etc/a/, 0755 7:8 etc/a/b/, 0644 0:0 etc/a/b/c");
}

#[test]
fn paths_lead_through_links_and_no_link_is_replaced_by_a_directory() {
    assert_eq!(lay(vec![file("bin/tool")]).unwrap(), "0755 0:0 usr/, 0755 0:0 usr/bin/, 0644 0:0 usr/bin/tool");
    let tree = vec![directory("lib"), file("lib/x.so"), directory("app"), file("app/run")];
    assert_eq!(
        lay(tree).unwrap(),
        "0755 0:0 usr/, 0755 0:0 usr/lib/, 0644 0:0 usr/lib/x.so, 0755 0:0 srv/, 0755 0:0 srv/app/, 0644 0:0 srv/app/run"
    );
    assert_eq!(lay(vec![file("gone/x")]).unwrap(), "0755 0:0 nowhere/, 0644 0:0 nowhere/x", "it is made");
    let error = lay(vec![file("bin")]).unwrap_err();
    assert_eq!(error, "`copy` would replace `/bin`, which is a link to the directory `usr/bin`");
    let same = (LayerFile::symlink("bin", "usr/bin"), ());
    assert_eq!(lay(vec![same]).unwrap(), "0777 0:0 bin -> usr/bin");
    let error = lay(vec![file("bin/tool"), file("usr/bin/tool")]).unwrap_err();
    assert_eq!(error, "`copy` puts two things at `/usr/bin/tool`");
}

#[test]
fn no_file_takes_the_place_of_a_directory_nor_the_other_way_round() {
    let error = lay(vec![file("etc")]).unwrap_err();
    assert_eq!(error, "`/etc` is a directory in `base` and a file in `copy`: in an image the one removes the other");
    let mut below = base();
    below.lay("first", &Manner::default(), vec![file("srv/x")]).unwrap();
    let error = laid(&mut below, &Manner::default(), vec![file("srv/x/y")]).unwrap_err();
    assert_eq!(error, "`/srv/x` is a file in `first` and a directory in `copy`: in an image the one removes the other");
    assert_eq!(laid(&mut below, &Manner::default(), vec![file("srv/x")]).unwrap(), "0755 0:0 srv/, 0644 0:0 srv/x");
}

#[test]
fn a_directory_that_is_there_stays_as_it_is_unless_the_copy_says_otherwise() {
    let tree = || {
        let own = |path: &str| (LayerFile { mode: 0o750, owner: (5, 5), ..LayerFile::directory(path) }, ());
        vec![own("home/alice"), own("home/alice/src"), own("home/alice/new")]
    };
    assert_eq!(
        lay(tree()).unwrap(),
        "0755 0:0 home/, 0700 1000:1000 home/alice/, 0700 1000:1000 home/alice/src/, 0750 5:5 home/alice/new/"
    );
    let manner = Manner { gives_owner: true, gives_mode: true, target: "home/alice".into(), ..Manner::default() };
    assert_eq!(
        laid(&mut base(), &manner, tree()).unwrap(),
        "0755 0:0 home/, 0700 1000:1000 home/alice/, 0750 5:5 home/alice/src/, 0750 5:5 home/alice/new/"
    );
}

#[test]
fn what_declared_facts_leave_out_counts_as_absent() {
    let facts = BaseFacts { directories: vec!["/tmp 1777 0:0".parse().unwrap()], ..BaseFacts::default() };
    let mut below = Below::of(&facts, "base");
    let made = laid(&mut below, &Manner::default(), vec![file("tmp/x"), file("usr/bin/y")]).unwrap();
    assert_eq!(made, "1777 0:0 tmp/, 0644 0:0 tmp/x, 0755 0:0 usr/, 0755 0:0 usr/bin/, 0644 0:0 usr/bin/y");
}

#[test]
fn notes_tell_what_differs_from_nothing_at_all() {
    let notes = |below: &mut Below, path: &str| below.lay("copy", &Manner::default(), vec![file(path)]).unwrap().notes;
    assert_eq!(notes(&mut Below::nothing(), "etc/x"), [""; 0]);
    assert_eq!(notes(&mut base(), "etc/x"), [""; 0]);
    assert_eq!(notes(&mut base(), "tmp/x"), ["/tmp 1777 0:0"]);
    assert_eq!(notes(&mut base(), "bin/x"), ["/bin -> usr/bin"]);
}

#[test]
fn layers_of_wheels_are_told_of_what_is_around_them_and_of_nothing_else() {
    assert!(Below::nothing().around(&["opt/venv"]).is_empty());
    let Around { directories, links } = base().around(&["opt/venv"]);
    assert_eq!((directories, links), (Vec::new(), vec!["/opt -> data/opt".parse().unwrap()]));
    let Around { directories, links } = base().around(&["home/alice/env"]);
    assert_eq!((directories.len(), links.len()), (1, 0));
    assert_eq!(directories[0].to_string(), "/home/alice 0700 1000:1000");
    let mut fitted = Below::of_lines(&[], &["/opt -> data/opt".parse().unwrap()]);
    let files = vec![directory("opt/venv"), file("opt/venv/x")];
    assert_eq!(
        laid(&mut fitted, &Manner::default(), files).unwrap(),
        "0755 0:0 data/opt/venv/, 0644 0:0 data/opt/venv/x"
    );
}

#[test]
fn a_directory_too_deep_to_be_told_of_keeps_its_owner() {
    let folders = vec!["usr(local(cuda))".parse().unwrap(), "home(alice)".parse().unwrap()];
    let facts = BaseFacts { folders, folder_depth: Some(3), ..BaseFacts::default() };
    let mut below = Below::of(&facts, "base");
    let manner = Manner { parents: Attributes { owner: (5, 5), ..Attributes::default() }, ..Manner::default() };
    let files = vec![file("usr/local/cuda/lib/stubs/x"), file("home/alice/a/b/c/x")];
    assert_eq!(
        laid(&mut below, &manner, files).unwrap(),
        "0755 0:0 usr/, 0755 0:0 usr/local/, 0755 0:0 usr/local/cuda/, 0755 0:0 usr/local/cuda/lib/, \
         0755 0:0 usr/local/cuda/lib/stubs/, 0644 0:0 usr/local/cuda/lib/stubs/x, 0755 0:0 home/, 0755 0:0 home/alice/, \
         0755 5:5 home/alice/a/, 0755 5:5 home/alice/a/b/, 0755 5:5 home/alice/a/b/c/, 0644 0:0 home/alice/a/b/c/x"
    );
}
