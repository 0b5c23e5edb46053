//! The format as pip reads it, case by case.

use std::collections::BTreeMap;

use insta::assert_snapshot;

use super::*;

type Files<'a> = [(&'a str, &'a [u8])];

fn read_files(files: &Files<'_>) -> Result<Requirements, Diagnostics> {
    let files: BTreeMap<PathBuf, Vec<u8>> =
        files.iter().map(|(path, bytes)| (Path::new("/project").join(path), bytes.to_vec())).collect();
    let mut content = |path: &Path| files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into());
    read(Path::new("/project"), Path::new("/project/requirements.txt"), &Provided::new(), &mut content)
}

fn read_text(text: &str) -> Result<Requirements, Diagnostics> {
    read_files(&[("requirements.txt", text.as_bytes())])
}

/// The requirements as they are written for uv.
fn written(text: &str) -> Vec<String> {
    read_text(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}")).lines()
}

impl Requirements {
    fn lines(&self) -> Vec<String> {
        self.requirements.iter().map(|line| line.value.to_string()).collect()
    }
}

/// The mistakes with their files and lines.
fn mistakes(files: &Files<'_>) -> String {
    let wrong = read_files(files).expect_err("it is taken");
    let line = |diagnostic: &Diagnostic| {
        let places: Vec<String> = diagnostic
            .labels
            .iter()
            .map(|label| {
                let file = label.file.as_ref().expect("no file");
                let number = file.text[..label.span.start].matches('\n').count() + 1;
                format!("{}:{number} `{}`", file.path, &file.text[label.span.clone()])
            })
            .collect();
        format!("{}: {}\n", places.join(", "), diagnostic.message)
    };
    wrong.0.iter().map(line).collect()
}

fn mistake(text: &str) -> String {
    mistakes(&[("requirements.txt", text.as_bytes())])
}

#[test]
fn requirements_keep_names_extras_versions_and_markers() {
    assert_eq!(written("Six\n"), ["six"]);
    assert_eq!(written("a_b[X, y_z] >= 1.0, < 2"), ["a-b[x,y-z]>=1.0,<2"]);
    assert_eq!(written("a (>=1,<2)"), ["a>=1,<2"]);
    assert_eq!(written("a~=1.2;python_version>'3.8'"), ["a~=1.2 ; python_version>'3.8'"]);
    assert_eq!(written("a===1.0+local"), ["a===1.0+local"]);
    for text in [
        "a===v1.0",
        "a===1.0,<2",
        "[x]",
        "==1",
        "a[,]",
        "a[x,]",
        "-1-py3-none-any.whl",
        "a-",
        "a.[x]",
        "./\0/a-1-py3-none-any.whl",
    ] {
        assert!(!mistake(text).is_empty(), "{text}");
    }
    assert_eq!(written("a ; extra == 'x' or sys_platform == 'linux'"), ["a ; extra == 'x' or sys_platform == 'linux'"]);
}

#[test]
fn a_compatible_release_of_python_keeps_its_zeros() {
    let holds = |text: &str, python: &str| {
        let read = read_text(&format!("a ; {text}")).unwrap();
        let environment = crate::pylock::environment("3.11", python, "linux/amd64".parse().unwrap()).unwrap();
        read.requirements[0].value.applies(&environment)
    };
    for (text, python, expected) in [
        ("python_full_version ~= '3.10.0'", "3.11.2", false),
        ("python_full_version ~= '3.11.0'", "3.11.2", true),
        ("python_full_version ~= '3.11.3'", "3.11.2", false),
        ("python_version ~= '3.10'", "3.11.2", true),
        ("os_name == 'nt' or (python_version ~= '3.11.0' and sys_platform == 'linux')", "3.11.2", true),
    ] {
        assert_eq!(holds(text, python), expected, "{text} for {python}");
    }
    // uv gets the marker as it is written.
    assert_eq!(written("a ; python_version ~= '3.10.0'"), ["a ; python_version ~= '3.10.0'"]);
}

#[test]
fn small_slips_are_read_as_pip_reads_them_or_explained() {
    assert_eq!(written("a>=1,<2,"), ["a>=1,<2"]);
    let two = read_text("--extra-index-url https://a.example.org --extra-index-url=https://b.example.org").unwrap();
    assert_eq!(two.extra_indexes.len(), 2);
    assert!(mistake("a --config-set=x=y").contains("`--config-settings` concerns building"));
    assert!(read_text("--all-releases :all:").unwrap().prereleases.is_some());
    assert_snapshot!(mistake("black@24.1.1\n_a==1\na\u{a0}==1\na===foo\nhttp:/yo/a-1-py3-none-any.whl\nhttp:///yo/a-1-py3-none-any.whl\n-i https://h\\\\@b/\na @ ht)tps://h/a-1-py3-none-any.whl\ngit+https://example.org/a#subdirectory=b\n--all-releases a\n--no-require-hashes\na --hash=sha256:+0\n"), @r"
    requirements.txt:1 `black@24.1.1`: behind `@` stands `24.1.1`, which is a version and no URL
    requirements.txt:2 `_a==1`: this is not a Python requirement
    requirements.txt:3 `a ==1`: this is not a Python requirement
    requirements.txt:4 `a===foo`: this is not a Python requirement
    requirements.txt:5 `http:/yo/a-1-py3-none-any.whl`: this URL has no host, or a backslash
    requirements.txt:6 `http:///yo/a-1-py3-none-any.whl`: this URL has no host, or a backslash
    requirements.txt:7 `-i https://***@b/`: this URL has no host, or a backslash
    requirements.txt:8 `a @ ht)tps://h/a-1-py3-none-any.whl`: this URL cannot be read
    requirements.txt:9 `git+https://example.org/a#subdirectory=b`: a repository is not taken: it is source
    requirements.txt:10 `--all-releases a`: `--all-releases a` is not taken
    requirements.txt:11 `--no-require-hashes`: `--no-require-hashes` is not taken: a hash that is given is always checked
    requirements.txt:12 `--hash=sha256:+0`: this is no sha256
    ");
}

#[test]
fn comments_begin_at_a_hash_after_white_space() {
    assert_eq!(written("# all\na # one\nb\t# two\n  # three\n\n \n"), ["a", "b"]);
    assert_eq!(written("a==1 # the comment goes on \\\nb\nc"), ["a==1", "c"]);
    assert!(mistake("c#1").contains("not a Python requirement"));
}

#[test]
fn a_line_that_ends_with_a_backslash_goes_on() {
    assert_eq!(written("a \\\n>=1\nb"), ["a>=1", "b"]);
    assert_eq!(written("a\\\n\\\n==1"), ["a==1"]);
    assert_eq!(written("a \\\n# a comment ends it\nb"), ["a", "b"]);
    assert_eq!(written("a\\"), ["a"]);
    assert_eq!(written("# no continuation \\\na"), ["a"]);
}

#[test]
fn lines_are_divided_where_python_divides_them() {
    assert_eq!(written("a\rb\r\nc\u{b}d\u{c}e\u{85}f\u{2028}g"), ["a", "b", "c", "d", "e", "f", "g"]);
}

#[test]
fn encodings_are_those_of_pip() {
    let read = |bytes: &[u8]| read_files(&[("requirements.txt", bytes)]).map(|read| read.lines());
    assert_eq!(read(b"\xef\xbb\xbfa").unwrap(), ["a"]);
    assert_eq!(read(b"\xff\xfea\0\n\0b\0").unwrap(), ["a", "b"]);
    assert_eq!(read(b"\xfe\xff\0a\0\n\0b").unwrap(), ["a", "b"]);
    assert_eq!(read(b"\xff\xfe\0\0a\0\0\0").unwrap(), ["a"]);
    assert_eq!(read(b"# -*- coding: latin-1 -*-\na # \xe9").unwrap(), ["a"]);
    assert_eq!(read(b"\n# vim: set fileencoding=iso-8859-1 :\na # \xe9").unwrap(), ["a"]);
    assert_eq!(read("a # \u{e9}".as_bytes()).unwrap(), ["a"]);
    let refused = |bytes: &[u8]| mistakes(&[("requirements.txt", bytes)]);
    assert_snapshot!(refused(b"a\nb # \xe9"), @"requirements.txt:2 ``: this is not in the encoding of the file");
    assert_snapshot!(refused(b"# coding: klingon\na"), @"requirements.txt:1 `klingon`: the encoding `klingon` is not read");
    assert_snapshot!(refused(b"\n\n# coding: latin-1\na # \xe9"), @"requirements.txt:4 ``: this is not in the encoding of the file");
}

#[test]
fn hashes_belong_to_their_requirement_also_over_many_lines() {
    let (a, b) = ("a".repeat(64), "b".repeat(64));
    let text = format!(
        "one==1 \\\n    --hash=sha256:{a} \\\n    --hash sha256:{b}\ntwo --hash='sha256:{}'\nthree\n",
        a.to_uppercase()
    );
    let read = read_text(&text).unwrap();
    let hashes: Vec<Vec<String>> =
        read.requirements.iter().map(|line| line.value.hashes.iter().map(Digest::hex).collect()).collect();
    assert_eq!(hashes, [vec![a.clone(), b.clone()], vec![a.clone()], vec![]]);
    // pip is content with any of them, and kiln with the sha256.
    let more = read_text(&format!("one==1 --hash=sha512:{a}{a} --hash=sha256:{b}")).unwrap();
    assert_eq!(more.requirements[0].value.hashes[0].hex(), b);
    let fragment = read_text(&format!("https://example.org/a-1-py3-none-any.whl#sha256={a}")).unwrap();
    assert_eq!(fragment.requirements[0].value.hashes[0].hex(), a);
}

#[test]
fn hashes_that_bind_nothing_are_refused() {
    let a = "a".repeat(64);
    assert_snapshot!(mistake(&format!("--hash=sha256:{a}")).replace(&a, "HEX"), @"requirements.txt:1 `--hash=sha256:HEX`: `--hash` belongs to no requirement, so that pip ignores it");
    assert_snapshot!(mistake("a --hash=md5:00"), @"requirements.txt:1 `--hash=md5:00`: `md5` is not a hash that packages are checked by");
    assert_snapshot!(mistake("a --hash=sha512:00"), @"requirements.txt:1 `--hash=sha512:00`: this requirement has no sha256, which alone kiln checks");
    assert_snapshot!(mistake("a \\\n  --hash=sha256:00"), @"requirements.txt:2 `--hash=sha256:00`: this is no sha256");
    assert_snapshot!(mistake("a --hash=00"), @"requirements.txt:1 `--hash=00`: `--hash` lacks its algorithm");
    assert_snapshot!(mistake("https://example.org/a-1-py3-none-any.whl#md5=0"), @"requirements.txt:1 `https://example.org/a-1-py3-none-any.whl#md5=0`: the part of the URL after `#` is not taken");
}

#[test]
fn files_are_included_relative_to_the_file_that_names_them() {
    let read = read_files(&[
        ("requirements.txt", b"-r deep/one.txt\n-c limits.txt\nlast"),
        ("deep/one.txt", b"first\n--requirement=../two.txt\n"),
        ("two.txt", b"second\n"),
        ("limits.txt", b"first<2\n-r three.txt"),
        ("three.txt", b"third"),
    ])
    .unwrap();
    // A file that a constraints file includes with `-r` holds requirements, as in pip.
    assert_eq!(read.lines(), ["first", "second", "third", "last"]);
    assert_eq!(read.constraints.iter().map(|line| line.value.to_string()).collect::<Vec<_>>(), ["first<2"]);
    let files: Vec<&str> = read.files.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(files, ["requirements.txt", "deep/one.txt", "two.txt", "limits.txt", "three.txt"]);
    assert_eq!(read.requirements[1].place.file.path, "two.txt");
}

#[test]
fn a_file_outside_the_project_is_shown_relative_to_it() {
    let mut content = |path: &Path| match path.to_str() {
        Some("/project/requirements.txt") => Ok(b"-r ../shared/base.txt".to_vec()),
        Some("/shared/base.txt") => Ok(b"a".to_vec()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let read =
        read(Path::new("/project"), Path::new("/project/requirements.txt"), &Provided::new(), &mut content).unwrap();
    assert_eq!(read.files[1].0, "../shared/base.txt");
}

#[test]
fn files_that_include_themselves_or_do_not_exist_are_refused() {
    assert_snapshot!(mistakes(&[("requirements.txt", b"a\n-r b.txt"), ("b.txt", b"-r ./x/../requirements.txt\n")]), @"b.txt:1 `-r ./x/../requirements.txt`: `requirements.txt` includes itself");
    assert_snapshot!(mistakes(&[("requirements.txt", b"-c requirements.txt")]), @"requirements.txt:1 `-c requirements.txt`: `requirements.txt` includes itself");
    assert_snapshot!(mistake("-r none.txt"), @"requirements.txt:1 `-r none.txt`: `none.txt` does not exist");
    assert_snapshot!(mistake("-r https://example.org/r.txt"), @"requirements.txt:1 `-r https://example.org/r.txt`: a file at a URL is not included: what it says tomorrow is not known");
    assert_snapshot!(mistake("-r a.txt -r b.txt"), @r"
    requirements.txt:1 `-r a.txt`: `-r` shares its line, where pip reads only one
    requirements.txt:1 `-r b.txt`: `-r` shares its line, where pip reads only one
    ");
    // The same file twice is no cycle.
    let twice = read_files(&[("requirements.txt", b"-r a.txt\n-r a.txt"), ("a.txt", b"a")]).unwrap();
    assert_eq!(twice.lines(), ["a", "a"]);
}

#[test]
fn including_is_bounded() {
    let many = "-r a.txt\n".repeat(300);
    let wrong = mistakes(&[("requirements.txt", many.as_bytes()), ("a.txt", b"a")]);
    assert!(wrong.contains("too deep or too often") && wrong.lines().count() <= 20, "{wrong}");
    let long = format!("a{}", " \\\n  x".repeat(300_000));
    assert!(mistake(&long).contains("this line is too long"));
}

#[test]
fn wheels_are_named_by_path_and_url() {
    for (text, uv) in [
        ("./w/a_b-1-py3-none-any.whl", "a-b @ file:///project/w/a_b-1-py3-none-any.whl"),
        ("w/a-1-py3-none-any.whl", "a @ file:///project/w/a-1-py3-none-any.whl"),
        ("a-1-py3-none-any.whl", "a @ file:///project/a-1-py3-none-any.whl"),
        ("../a-1-py3-none-any.whl[x]", "a[x] @ file:///a-1-py3-none-any.whl"),
        (
            "/abs/a-1-py3-none-any.whl ; python_version > '3'",
            "a @ file:///abs/a-1-py3-none-any.whl ; python_version > '3'",
        ),
        ("./a b/a-1-py3-none-any.whl", "a @ file:///project/a%20b/a-1-py3-none-any.whl"),
        ("file:./a-1-py3-none-any.whl", "a @ file:///project/a-1-py3-none-any.whl"),
        ("file:///x%20y/a-1%2Bcu130-py3-none-any.whl", "a @ file:///x%20y/a-1+cu130-py3-none-any.whl"),
        ("file://localhost/a-1-py3-none-any.whl", "a @ file:///a-1-py3-none-any.whl"),
        ("a @ ./a-1-py3-none-any.whl", "a @ file:///project/a-1-py3-none-any.whl"),
        ("a[x]@file:w/a-1-py3-none-any.whl", "a[x] @ file:///project/w/a-1-py3-none-any.whl"),
        (
            "A @ https://example.org/a-1-py3-none-any.whl?t=1 ; python_version > '3'",
            "a @ https://example.org/a-1-py3-none-any.whl?t=1 ; python_version > '3'",
        ),
        ("https://example.org/a-1-py3-none-any.whl#egg=a", "a @ https://example.org/a-1-py3-none-any.whl"),
    ] {
        assert_eq!(written(text), [uv], "{text}");
    }
    let nested = read_files(&[("requirements.txt", b"-r x/y.txt"), ("x/y.txt", b"./a-1-py3-none-any.whl")]).unwrap();
    assert_eq!(nested.lines(), ["a @ file:///project/x/a-1-py3-none-any.whl"]);
}

#[test]
fn what_would_have_to_be_built_is_refused_at_its_line() {
    let text = ".\n./src\n-e .\n-e ./src\n--editable=git+https://example.org/a\na @ file:///croot/a_1/work\na @ git+ssh://git@example.org/a@v1\n\
                git+https://example.org/a#egg=a\n./a-1.tar.gz\na-1.zip\nhttps://example.org/a-1.tar.gz\na @ https://example.org/archive/main.zip\n\
                a @ ../a\nhttps://example.org/a\na --config-settings=x=y\n--no-binary a\n--no-binary :all:\n";
    assert_snapshot!(mistake(text), @r"
    requirements.txt:1 `.`: a directory is not taken: kiln installs wheels
    requirements.txt:2 `./src`: a directory is not taken: kiln installs wheels
    requirements.txt:3 `-e .`: the project itself is not installed: kiln installs wheels
    requirements.txt:4 `-e ./src`: `-e` is not taken: an image holds no checkout, and kiln installs wheels
    requirements.txt:5 `--editable=git+https://example.org/a`: `-e` is not taken: an image holds no checkout, and kiln installs wheels
    requirements.txt:6 `a @ file:///croot/a_1/work`: `a` is asked for as a directory, and kiln installs wheels
    requirements.txt:7 `a @ git+ssh://*****************@v1`: a repository is not taken: it is source
    requirements.txt:8 `git+https://example.org/a#egg=a`: a repository is not taken: it is source
    requirements.txt:9 `./a-1.tar.gz`: a source archive is not taken: kiln installs wheels
    requirements.txt:10 `a-1.zip`: a source archive is not taken: kiln installs wheels
    requirements.txt:11 `https://example.org/a-1.tar.gz`: a source archive is not taken: kiln installs wheels
    requirements.txt:12 `a @ https://example.org/archive/main.zip`: `a` is asked for as a source archive, and kiln installs wheels
    requirements.txt:13 `a @ ../a`: `a` is asked for as a directory, and kiln installs wheels
    requirements.txt:14 `https://example.org/a`: something that is no wheel is not taken: kiln installs wheels
    requirements.txt:15 `--config-settings=x=y`: `--config-settings` concerns building, which is not done
    requirements.txt:16 `--no-binary a`: `--no-binary` is not taken: it asks to build sources
    requirements.txt:17 `--no-binary :all:`: `--no-binary` is not taken: it asks to build sources
    ");
}

#[test]
fn options_that_change_pip_itself_and_what_is_no_option_are_refused() {
    assert_snapshot!(mistake("--trusted-host example.org\n--use-feature=fast-deps\n--quiet\n-x\n--no\na --pre\n--pre six\n--index-url\n--pre=1\n-\n--\n--find-links 'a\n"), @r"
    requirements.txt:1 `--trusted-host example.org`: `--trusted-host` is not taken: certificates are always checked
    requirements.txt:2 `--use-feature=fast-deps`: `--use-feature` is not taken
    requirements.txt:3 `--quiet`: `--quiet` is no option of requirements files
    requirements.txt:4 `-x`: `-x` is no option of requirements files
    requirements.txt:5 `--no`: `--no` may be `--no-index` or `--no-binary`
    requirements.txt:6 `--pre`: `--pre` stands beside a requirement, where pip ignores it
    requirements.txt:7 `six`: `six` stands after an option, where pip ignores it
    requirements.txt:8 `--index-url`: `--index-url` lacks its value
    requirements.txt:9 `--pre=1`: `--pre=1` has a value, and the option takes none
    requirements.txt:10 `-`: `-` is no option
    requirements.txt:11 `--`: `--` stands after an option, where pip ignores it
    requirements.txt:12 `'a`: `'a` has a quote that is not closed
    ");
}

#[test]
fn wheels_with_another_name_and_bad_requirements_are_refused() {
    assert_snapshot!(mistake("b @ ./a-1-py3-none-any.whl\n./a.whl\na=1\na>1.*\na[x\na @\nftp://example.org/a-1-py3-none-any.whl\n-c c.txt\na ; bogus == '1'\na ; python_version == '3.x'\na ; 'a' == 'b'\n${NAME}==1\n-i https://${USER}@example.org\nhttps://user:pw@example.org/a-1-py3-none-any.whl\n-i https://user:pw@example.org/simple\n"), @r"
    requirements.txt:1 `b @ ./a-1-py3-none-any.whl`: the wheel is one of `a`, and the line asks for `b`
    requirements.txt:2 `./a.whl`: `a.whl` is not the file name of a wheel
    requirements.txt:3 `a=1`: this is not a Python requirement
    requirements.txt:4 `a>1.*`: this is not a Python requirement
    requirements.txt:5 `a[x`: this is not a Python requirement
    requirements.txt:6 `a @`: this is not a Python requirement
    requirements.txt:7 `ftp://example.org/a-1-py3-none-any.whl`: `ftp:` is not taken
    requirements.txt:8 `-c c.txt`: `c.txt` does not exist
    requirements.txt:9 `a ; bogus == '1'`: this is not a Python requirement
    requirements.txt:10 `a ; python_version == '3.x'`: this marker cannot be evaluated
    requirements.txt:11 `a ; 'a' == 'b'`: this marker cannot be evaluated
    requirements.txt:12 `${NAME}`: `${NAME}` would come from the environment, which kiln does not read
    requirements.txt:13 `*******`: `${USER}` would come from the environment, which kiln does not read
    requirements.txt:14 `https://*******@example.org/a-1-py3-none-any.whl`: credentials in a requirements file are not taken: a lock holds none
    requirements.txt:15 `-i https://*******@example.org/simple`: credentials in a requirements file are not taken: a lock holds none
    ");
    assert_snapshot!(mistakes(&[("requirements.txt", b"-c c.txt"), ("c.txt", b"a[x]<2\n./a\n")]), @r"
    c.txt:1 `a[x]<2`: a constraint cannot have extras
    c.txt:2 `./a`: a directory is not taken: kiln installs wheels
    ");
}

#[test]
fn options_say_where_packages_come_from() {
    let read = read_files(&[
        ("requirements.txt", b"-r x/more.txt\n--index https://example.org/simple --extra-index-url=https://example.org/more\n-fhttps://example.org/page\n--only-binary=:all:\n--prefer-binary\n"),
        ("x/more.txt", b"--find-links ../wheels\n-f ./here\n--extra-index-url file:index\n--pre\n--require-hashes\n"),
    ]).unwrap();
    let values = |placed: &[Placed<String>]| placed.iter().map(|placed| placed.value.clone()).collect::<Vec<_>>();
    assert_eq!(read.index.as_ref().map(|index| index.value.as_str()), Some("https://example.org/simple"));
    assert_eq!(values(&read.extra_indexes), ["file:///project/x/index", "https://example.org/more"]);
    assert_eq!(values(&read.find_links), ["/project/wheels", "/project/x/here", "https://example.org/page"]);
    assert!(read.prereleases.is_some() && read.require_hashes.is_some() && read.no_index.is_none());
    assert!(mistake("-i https://a.example.org\n-i https://b.example.org").contains("two default indexes"));
}

#[test]
fn a_dollar_that_pip_leaves_alone_is_left_alone() {
    assert!(variable("a ; platform_version != '${x}'").is_none());
    assert!(variable("$NAME ${} ${a_B}").is_none());
    assert_eq!(variable("x ${A_1}"), Some(2..8));
}

#[test]
fn secrets_are_covered_in_what_is_shown() {
    assert_eq!(
        without_secrets("-i https://u:p/w#@example.org/s # http://x\n"),
        "-i https://******@example.org/s # http://x\n"
    );
    assert_eq!(without_secrets("a @ git+ssh://git@example.org/a@v1"), "a @ git+ssh://*****************@v1");
    for (written, shown) in [
        ("--index-url=https:user:hunter2@h/", "--index-url=******************@h/"),
        ("--index-url //user:hunter2@h/", "--index-url **************@h/"),
        ("idna @ user:hunter2@h", "idna @ ************@h"),
        ("a @ https://h/a.whl", "a @ https://h/a.whl"),
    ] {
        assert_eq!(without_secrets(written), shown);
    }
    assert_eq!(without_secrets("git+https://example.org/a@v1"), "git+https://example.org/a@v1");
}
