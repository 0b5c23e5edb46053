//! The same files give the same digests, wherever, whenever and by whomever.

use crate::environment::TestEnvironment;
use crate::wheels::{native, pure, stack};

fn project() -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack(
        "packages = [\"solver\", \"greeting\"]\ncopy = [{ from = \"src\", to = \"/app\" }]\n\
         user = { name = \"alice\", uid = 1000 }",
    ));
    for (name, version) in [("greeting", "1.0"), ("words", "2.1")] {
        environment.wheel(&pure(name, version).requires("solver"));
    }
    // Several pieces of several members, and one wheel with a layer of its own.
    environment.wheel(&native("solver", "3.0", "x86_64", 12_000_000));
    for file in 0..20 {
        environment.write(&format!("src/{file}.txt"), crate::wheels::noise(100_000, &file.to_string()));
    }
    environment
}

#[test]
fn store_directory_umask_time_zone_and_threads_do_not_matter() {
    let environment = project();
    let first = environment.digests("--jobs 4");
    let lock = environment.read("kiln.lock");
    for (at, script) in [
        "umask 077; exec $KILN build --json --jobs 1",
        "umask 000; TZ=Asia/Seoul exec $KILN build --json --jobs 3",
        "LC_ALL=C.UTF-8 LANG=de_DE USER=somebody HOSTNAME=elsewhere exec $KILN build --json --jobs 7",
    ]
    .iter()
    .enumerate()
    {
        // Another directory with files of other modes and times, and another store.
        let other = project();
        let mode = std::os::unix::fs::PermissionsExt::from_mode([0o600, 0o666, 0o640][at]);
        fs_err::set_permissions(other.path("src/3.txt"), mode).unwrap();
        let outcome = other.shell(script);
        assert_eq!(outcome.status, Some(0), "{outcome}");
        let document: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(document["images"][0]["digest"], first[0].1.as_str(), "{script}");
        assert_eq!(other.read("kiln.lock"), lock);
    }
}

#[test]
fn outputs_are_the_same_bytes_and_have_the_same_modes_under_any_umask() {
    let environment = project();
    environment.succeed("build --output oci:one --output docker-archive:one.tar");
    let outcome = environment.shell("umask 077; $KILN build --output oci:two --output docker-archive:two.tar");
    assert_eq!(outcome.status, Some(0), "{outcome}");
    assert_eq!(fs_err::read(environment.path("one.tar")).unwrap(), fs_err::read(environment.path("two.tar")).unwrap());
    assert_eq!(environment.read("one/index.json"), environment.read("two/index.json"));
}

#[test]
fn the_time_of_creation_is_that_of_source_date_epoch() {
    let environment = project();
    environment.succeed("build --output oci:out");
    let created = |layout: &str| crate::images::ReadBack::of(&environment.path(layout), "app", "amd64").config.created;
    assert_eq!(created("out").as_deref(), Some("1980-01-01T00:00:00Z"));
    let outcome = environment.shell("SOURCE_DATE_EPOCH=1709210096 $KILN build --output oci:dated");
    assert_eq!(created("dated").as_deref(), Some("2024-02-29T12:34:56Z"), "{outcome}");
    insta::assert_snapshot!(environment.kiln("explain app"), @r"
    app:
      SOURCE_DATE_EPOCH: 1709210096 is gone
    ");
    insta::assert_snapshot!(environment.shell("SOURCE_DATE_EPOCH=yesterday $KILN build"), @r"
    ------- stderr -------
    error: `SOURCE_DATE_EPOCH` is `yesterday`

    hint: it is a number of seconds since 1970
    [exit status: 2]
    ");
}

#[test]
fn two_builds_may_share_a_store() {
    let environment = project();
    let outcome = environment.shell(
        "$KILN build --json > one.json 2> one.err & first=$!; $KILN build --json > two.json 2> two.err || exit 9; \
         wait $first",
    );
    let errors = environment.read("one.err") + &environment.read("two.err");
    assert_eq!(outcome.status, Some(0), "{outcome}\n{errors}");
    let digest = |file: &str| {
        let document: serde_json::Value = serde_json::from_str(&environment.read(file)).unwrap();
        document["images"][0]["digest"].clone()
    };
    assert_eq!(digest("one.json"), digest("two.json"));
}
