//! Content that is wrong is never delivered with status 0, whatever happened to the store, to an output, or to a download.

use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::{Child, Stdio};

use kiln_plan::digest::Digest;

use crate::environment::{Outcome, TestEnvironment, kill_once, wait_until};
use crate::server::{Behaviour, Server};
use crate::wheels::{native, noise, pure, stack};
use insta::assert_snapshot;

const FILE: &str = "remote-1.0-py3-none-any.whl";

/// Two stacks whose images need the same wheel, which a server has.
fn two_stacks_and_a_server() -> (TestEnvironment, Server) {
    let environment = TestEnvironment::with_stack("");
    let served = environment.root().join("served");
    fs_err::create_dir_all(&served).unwrap();
    let wheel = pure("remote", "1.0").file("remote/data.bin", noise(6_000_000, "remote"));
    fs_err::write(served.join(FILE), wheel.finish()).unwrap();
    let server = Server::start(served.clone());
    let text = stack("packages = [\"remote\"]")
        .replace("find-links = [\"wheels\"]", &format!("default = \"{}\"", server.index()));
    environment.stack(&text);
    environment.tell_uv("served", &served);
    environment.succeed("lock");
    server.log();
    (environment, server)
}

fn spawn(environment: &TestEnvironment, arguments: &[&str]) -> Child {
    let mut command = environment.command();
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> Outcome {
    child.wait_with_output().unwrap().into()
}

/// Every blob of a layout has the digest that its name says, and its images are those of these names.
#[track_caller]
fn layout_is_right(path: &Path, names: &[&str]) {
    for entry in fs_err::read_dir(path.join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert_eq!(Digest::of(&fs_err::read(entry.path()).unwrap()).hex(), name, "{}", path.display());
    }
    let index: serde_json::Value = serde_json::from_slice(&fs_err::read(path.join("index.json")).unwrap()).unwrap();
    let manifests = index["manifests"].as_array().unwrap().iter();
    let mut found: Vec<String> = manifests
        .map(|entry| entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap().to_owned())
        .collect();
    found.sort();
    assert_eq!(found, names);
    let others: Vec<_> = fs_err::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["blobs", "index.json", "oci-layout"].contains(&name.as_str()))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn builds_that_download_the_same_wheel_at_once_download_it_once_and_right() {
    let (environment, server) = two_stacks_and_a_server();
    let outputs = ["oci:a", "oci:b", "oci:c"];
    let builds: Vec<Child> = outputs.iter().map(|output| spawn(&environment, &["build", "--output", output])).collect();
    for build in builds {
        let outcome = end(build);
        assert_eq!(outcome.status, Some(0), "{outcome}");
    }
    for output in ["a", "b", "c"] {
        layout_is_right(&environment.path(output), &["app"]);
    }
    assert_eq!(server.log().iter().filter(|line| line.contains(FILE)).count(), 1);
}

#[test]
fn a_download_whose_process_was_killed_is_taken_over_by_the_one_that_waits() {
    let (environment, server) = two_stacks_and_a_server();
    server.behave(FILE, Behaviour::Stall { after: 2_000_000 });
    let mut first = spawn(&environment, &["build"]);
    wait_until(|| environment.partial_downloads() == [2_000_000]);
    server.forgive();
    let said = environment.root().join("second.stderr");
    let mut second = environment.command();
    second.args(["build", "-v", "--output", "oci:out"]).stderr(fs_err::File::create(&said).unwrap().into_file());
    let mut second = second.spawn().unwrap();
    let says = |text: &str| fs_err::read_to_string(&said).unwrap().contains(text);
    kill_once(&mut first, || says("another kiln downloads it; waiting") || says("another kiln does it; waiting"));
    assert!(second.wait().unwrap().success(), "{}", fs_err::read_to_string(&said).unwrap());
    assert_eq!(server.log(), [format!("GET {FILE}"), format!("GET {FILE} from 2000000")]);
    layout_is_right(&environment.path("out"), &["app"]);
}

#[test]
fn a_login_page_in_place_of_a_wheel_fails_at_once_and_is_not_kept() {
    let (environment, server) = two_stacks_and_a_server();
    server.behave(FILE, Behaviour::Other(b"<html>please log in</html>".to_vec()));
    let since = std::time::Instant::now();
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `remote-1.0-py3-none-any.whl` from 127.0.0.1 is not the wanted file: 26 B came, and 5.32 MB was expected

    hint: a proxy, a login page, or a replaced file: open the address in a browser, and give credentials for 127.0.0.1 in `~/.netrc` if it asks for them
    [exit status: 3]
    ");
    assert!(since.elapsed() < std::time::Duration::from_secs(3));
    assert_eq!(fs_err::read_dir(environment.root().join("store/partial")).unwrap().count(), 0);
}

/// Two images that are made in the project.
fn two_images() -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&format!(
        "{}\n[images.other]\nfrom = {{ oci = \"base\" }}\npackages = [\"solver\"]\n",
        stack("packages = [\"words\"]")
    ));
    environment.wheel(&pure("words", "2.1").file("words/data.bin", noise(200_000, "words")));
    environment.wheel(&native("solver", "3.0", "x86_64", 300_000));
    environment
}

#[test]
fn builds_that_write_to_one_layout_at_once_lose_no_image() {
    let environment = two_images();
    environment.succeed("lock");
    for round in 0..4 {
        let output = format!("oci:shared-{round}");
        let builds = ["app", "other"].map(|image| spawn(&environment, &["build", image, "--output", &output]));
        for build in builds {
            let outcome = end(build);
            assert_eq!(outcome.status, Some(0), "{outcome}");
        }
        layout_is_right(&environment.path(&format!("shared-{round}")), &["app", "other"]);
    }
}

#[test]
fn a_damaged_blob_of_a_layout_is_written_again() {
    let environment = two_images();
    environment.succeed("build --output oci:out");
    for entry in fs_err::read_dir(environment.path("out/blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs_err::read(&path).unwrap();
        fs_err::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    environment.succeed("build --output oci:out");
    layout_is_right(&environment.path("out"), &["app", "other"]);
}

#[test]
fn what_a_killed_build_left_in_a_layout_goes_with_the_next() {
    let environment = two_images();
    environment.succeed("build --output oci:out");
    fs_err::write(environment.path("out/.kiln-0123456789.tmp"), "half a layer").unwrap();
    fs_err::remove_file(environment.path("out/index.json")).unwrap();
    for entry in fs_err::read_dir(environment.path("out/blobs/sha256")).unwrap() {
        fs_err::remove_file(entry.unwrap().path()).unwrap();
    }
    environment.succeed("build --output oci:out");
    layout_is_right(&environment.path("out"), &["app", "other"]);
}

#[test]
fn what_a_killed_build_left_in_a_layout_goes_even_if_nothing_is_to_be_written() {
    let environment = two_images();
    environment.succeed("build --output oci:out");
    fs_err::write(environment.path("out/.kiln-0123456789.tmp"), "half a layer").unwrap();
    environment.succeed("build --output oci:out");
    layout_is_right(&environment.path("out"), &["app", "other"]);
}

#[test]
fn a_damaged_layer_of_a_base_that_cannot_be_made_again_is_named() {
    let environment = two_images();
    environment.succeed("build");
    let blobs = environment.path("base/blobs/sha256");
    for entry in fs_err::read_dir(&blobs).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs_err::read(&path).unwrap();
        if bytes[0] != b'{' {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs_err::write(&path, bytes).unwrap();
        }
    }
    for output in ["oci:out", "docker-archive:out.tar"] {
        let outcome = environment.kiln(&format!("build app --platform linux/amd64 --output {output}"));
        assert_ne!(outcome.status, Some(0), "{outcome}");
        assert!(outcome.stderr.contains(blobs.to_str().unwrap()), "{outcome}");
        assert!(outcome.stderr.contains("hint:"), "{outcome}");
    }
    assert!(!environment.path("out.tar").exists() && !environment.path("out/index.json").exists());
}

#[test]
fn a_lock_that_is_a_link_stays_one() {
    let environment = two_images();
    fs_err::create_dir(environment.path("locks")).unwrap();
    symlink("locks/a.lock", environment.path("kiln.lock")).unwrap();
    environment.succeed("lock");
    assert!(fs_err::symlink_metadata(environment.path("kiln.lock")).unwrap().is_symlink());
    assert!(environment.read("locks/a.lock").contains("words"));
}

#[test]
fn an_archive_goes_into_a_pipe_or_a_device_and_never_replaces_it() {
    let environment = two_images();
    let outcome = environment.shell(
        "set -e; PATH=/usr/bin:/bin:$PATH; mkfifo pipe; cat pipe >piped.tar & \
         $KILN build app --platform linux/amd64 --output docker-archive:pipe; wait; \
         $KILN build app --platform linux/amd64 --output docker-archive:whole.tar; cmp piped.tar whole.tar; \
         $KILN build app --platform linux/amd64 --output docker-archive:/dev/stdout | cat >stdout.tar; \
         cmp stdout.tar whole.tar; echo before >file.tar; \
         $KILN build app --platform linux/amd64 --output docker-archive:- >>file.tar; \
         tail -c +8 file.tar | cmp - whole.tar",
    );
    assert_eq!(outcome.status, Some(0), "{outcome}");
    assert!(fs_err::metadata(environment.path("pipe")).unwrap().file_type().is_fifo());
    symlink("/dev/null", environment.path("nowhere")).unwrap();
    environment.succeed("build app --platform linux/amd64 --output docker-archive:nowhere");
    assert!(fs_err::metadata("/dev/null").unwrap().file_type().is_char_device());
}
