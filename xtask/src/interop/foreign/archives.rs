//! Archives that kiln writes, in Docker, podman and containerd: every tag is there, under the name by which the program
//! knows it. k3s imports archives into containerd's namespace `k8s.io`.

use std::process::Command;

use super::Fixture;
use crate::interop::registries::machine::Machine;
use crate::interop::report::{Checks, same};
use crate::interop::runtimes::Containerd;
use crate::interop::{Result, programs};

/// An image without a registry, one of Docker Hub, and one of another registry, with two tags each.
const STACK: &str = "[stack]\nname = \"t\"\ntags = [\"1\", \"latest\"]\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n\
     [images.a]\nfrom = \"scratch\"\ncopy = [{ from = \"f\", to = \"/f\" }]\n\n\
     [images.b]\nfrom = \"a\"\nenv = { A = \"b\" }\nrepository = \"docker.io/acme/train\"\n\n\
     [images.c]\nfrom = \"a\"\nenv = { A = \"c\" }\nregistry = \"quay.io/acme\"\n";
/// The names of the images in Docker, which leaves out its own registry, and in podman and containerd.
const IN_DOCKER: [&str; 3] = ["t/a", "acme/train", "quay.io/acme/t/c"];
const ELSEWHERE: [&str; 3] = ["docker.io/t/a", "docker.io/acme/train", "quay.io/acme/t/c"];

/// Makes the checks.
pub(super) fn check(fixture: &Fixture, checks: &mut Checks) {
    let Some(machine) = checks.check("kiln writes archives to files and to pipes", || write(fixture)) else { return };
    checks.check("Docker loads every tag", || {
        for image in ["a", "b", "c"] {
            fixture.docker.text(&["load", "--quiet", "--input", &file(&machine, "docker-archive", image)])?;
        }
        let listed = fixture.docker.text(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"])?;
        all_are_there(&listed, IN_DOCKER)
    });
    let podman = |name: &str| {
        let storage = fixture.storage("podman", name);
        move || {
            let mut words = storage.split(' ');
            let mut command = Command::new(words.next().unwrap_or_default());
            command.args(words);
            command
        }
    };
    checks.check("podman loads every tag, as from an archive of Docker's", || {
        let (ours, theirs) = (podman("ours"), podman("theirs"));
        let saved = fixture.directory.join("saved.tar").display().to_string();
        for (image, name) in ["a", "b", "c"].into_iter().zip(IN_DOCKER) {
            let load = |file: &str| ["load", "--quiet", "--input", file].map(str::to_owned);
            programs::output(ours().args(load(&file(&machine, "docker-archive", image))))?;
            let (first, last) = (format!("{name}:1"), format!("{name}:latest"));
            fixture.docker.text(&["save", "--output", &saved, &first, &last])?;
            programs::output(theirs().args(load(&saved)))?;
            fs_err::remove_file(&saved)?;
        }
        let list =
            |mut podman: Command| programs::text(podman.args(["images", "--format", "{{.Repository}}:{{.Tag}}"]));
        let listed = list(ours())?;
        all_are_there(&listed, ["localhost/t/a", "docker.io/acme/train", "quay.io/acme/t/c"])?;
        // Docker writes its own registry's names without it, which podman takes for names of this machine.
        let theirs = list(theirs())?.replace("localhost/acme/train", "docker.io/acme/train");
        all_are_there(&theirs, ["localhost/t/a", "docker.io/acme/train", "quay.io/acme/t/c"])
    });
    checks.check("podman pulls every tag of an oci-archive", || {
        let podman = podman("pulled");
        for image in ["a", "b", "c"] {
            for tag in ["1", "latest"] {
                let from = format!("oci-archive:{}:{image}:{tag}", file(&machine, "oci-archive", image));
                programs::output(podman().args(["pull", "--quiet", &from]))?;
            }
        }
        let listed = programs::text(podman().args(["images", "--format", "{{.Repository}}:{{.Tag}}"]))?;
        all_are_there(&listed, ELSEWHERE)
    });
    let Some(containerd) = checks.check("containerd runs", || Containerd::start(&fixture.directory)) else { return };
    for (kind, namespace) in [("docker-archive", "k8s.io"), ("oci-archive", "interop")] {
        checks.check(&format!("containerd imports every tag of a {kind}"), || {
            let ctr = || containerd.client(namespace);
            for image in ["a", "b", "c"] {
                programs::output(ctr().args(["images", "import", "--no-unpack", &file(&machine, kind, image)]))?;
            }
            all_are_there(&programs::text(ctr().args(["images", "ls", "--quiet"]))?, ELSEWHERE)
        });
    }
}

fn write(fixture: &Fixture) -> Result<Machine> {
    let machine = fixture.machine("archives")?.project("archives", STACK)?.with_file("f", b"x")?;
    for image in ["a", "b", "c"] {
        for kind in ["docker-archive", "oci-archive"] {
            programs::output(machine.kiln().args(["build", image, "--output", &format!("{kind}:{kind}-{image}.tar")]))?;
            let piped = programs::output(machine.kiln().args(["build", image, "--output", &format!("{kind}:-")]))?;
            let written = fs_err::read(file(&machine, kind, image))?;
            same(&format!("whether a pipe gets the {kind} of {image} too"), piped == written, true)?;
        }
    }
    Ok(machine)
}

fn file(machine: &Machine, kind: &str, image: &str) -> String {
    machine.project.join(format!("{kind}-{image}.tar")).display().to_string()
}

/// Finds each name with both tags, and nothing else of these images, among the lines of a list.
fn all_are_there(listed: &str, names: [&str; 3]) -> Result<()> {
    let mut found: Vec<&str> = listed.lines().filter(|line| !line.contains("127.0.0.1:")).collect();
    let expected: Vec<String> = names.iter().flat_map(|name| [format!("{name}:1"), format!("{name}:latest")]).collect();
    let mut expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    found.retain(|line| !line.contains("<none>") && !line.starts_with("sha256:"));
    found.sort_unstable();
    expected.sort_unstable();
    same("the list of images", found.join(" "), expected.join(" "))
}
