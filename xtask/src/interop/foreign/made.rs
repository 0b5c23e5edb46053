//! Images as other programs make them: a script for each, which pushes the image or writes a layout.
//!
//! Everything is built from scratch, of one small file, so that no base is needed. BuildKit's attestations are put
//! together by hand (`registries/by_hand.rs`): Debian's Docker is older than they are.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Fixture;
use crate::interop::registries::{by_hand, docker};
use crate::interop::{Result, programs};

/// Variables of the scripts: `R` a reference and `L` a layout for the image, `HUB` the registry, `T` the directory with
/// the file, `W` a directory for anything else; `D`, `B`, `P`, `S` Docker, buildah, podman and skopeo.
const SCRIPTS: [(&str, &str); 49] = [
    ("docker-full", "$D build -qt $R -f $T/full $T && $D push -q $R"),
    ("docker-plain", "$D build -qt $R -f $T/plain $T && $D push -q $R"),
    ("docker-label", r"printf 'FROM scratch\nLABEL a=b\n' | $D build -qt $R - && $D push -q $R"),
    ("docker-odd", "$D build -qt $R -f $T/odd $T && $D push -q $R"),
    ("docker-buildkit-full", "DOCKER_BUILDKIT=1 $D build -qt $R -f $T/full $T && $D push -q $R"),
    ("docker-buildkit-plain", "DOCKER_BUILDKIT=1 $D build -qt $R -f $T/plain $T && $D push -q $R"),
    (
        "docker-buildkit-cache",
        "DOCKER_BUILDKIT=1 $D build -qt $R --build-arg BUILDKIT_INLINE_CACHE=1 $T && $D push -q $R",
    ),
    ("docker-import", "tar -cC $T f | $D import - $R && $D push -q $R"),
    ("docker-import-changed", "tar -cC $T f | $D import -m said -c 'CMD [\"x\"]' -c 'ENV A=1' - $R && $D push -q $R"),
    (
        "docker-commit",
        "c=$($D create --network none $HUB/acme/docker-full:1) && $D commit -m m -a a -c 'LABEL c=d' $c $R && $D rm $c && \
         $D push -q $R",
    ),
    ("docker-save", "$D save -o $W/save.tar $HUB/acme/docker-full:1 && $S copy docker-archive:$W/save.tar oci:$L:x"),
    (
        "docker-list",
        "$D manifest create --insecure $R $HUB/acme/docker-full:1 $HUB/acme/docker-plain:1 && $D manifest annotate --arch \
         arm64 --variant v8 $R $HUB/acme/docker-plain:1 && $D manifest push --insecure $R",
    ),
    ("buildah-oci", "c=$($B from scratch) && $B copy -q $c $T/f && $B config $C $c && $B commit -q $c docker://$R"),
    (
        "buildah-docker",
        "c=$($B from scratch) && $B copy -q $c $T/f && $B config $C $c && $B commit -qf docker $c docker://$R",
    ),
    ("buildah-empty", "c=$($B from scratch) && $B commit -q $c docker://$R"),
    ("buildah-zero", "c=$($B from scratch) && $B copy -q $c $T/f && $B commit -q --timestamp 0 $c docker://$R"),
    (
        "buildah-annotated",
        "c=$($B from scratch) && $B copy -q $c $T/f && $B config --annotation a=b --created-by me --history-comment c \
         --author me --stop-signal 9 --volume /v --port 80 $c && $B commit -q $c docker://$R",
    ),
    ("buildah-layout", "c=$($B from scratch) && $B copy -q $c $T/f && $B commit -q $c oci:$L:x"),
    ("buildah-layout-unnamed", "c=$($B from scratch) && $B copy -q $c $T/f && $B commit -q $c oci:$L"),
    ("buildah-bud", "$B bud -qt bud -f $T/full $T && $B push -q bud docker://$R"),
    ("buildah-bud-docker", "$B bud -qt budd --format docker -f $T/full $T && $B push -q budd docker://$R"),
    ("buildah-bud-layers", "$B bud -qt budl --layers -f $T/odd $T && $B push -q budl docker://$R"),
    ("buildah-bud-squash", "$B bud -qt buds --squash -f $T/full $T && $B push -q buds docker://$R"),
    ("buildah-zstd", "$B push -q --compression-format zstd bud docker://$R"),
    ("buildah-as-docker", "$B push -qf v2s2 bud docker://$R"),
    (
        "buildah-list",
        "$B manifest create one && $B manifest add one docker://$HUB/acme/buildah-oci:1 && $B manifest push -q --all one \
         docker://$R",
    ),
    (
        "buildah-list-docker",
        "$B manifest create two && $B manifest add two docker://$HUB/acme/buildah-docker:1 && $B manifest push -qf v2s2 \
         --all two docker://$R",
    ),
    (
        "buildah-list-annotated",
        "$B manifest create three && d=$($B manifest add --annotation a=b --os-version 1 --features f three \
         docker://$HUB/acme/buildah-oci:1 | tail -1) && $B manifest push -q --all three docker://$R",
    ),
    ("podman-build", "$P build -qt $R -f $T/full $T && $P push -q $R"),
    ("podman-build-docker", "$P build -qt $R --format docker -f $T/odd $T && $P push -q $R"),
    ("podman-layout", "$P save -q --format oci-dir -o $L $HUB/acme/podman-build:1"),
    (
        "podman-archive",
        "$P save -q --format oci-archive -o $W/p.tar $HUB/acme/podman-build:1 && $S copy oci-archive:$W/p.tar oci:$L:x",
    ),
    (
        "podman-docker-archive",
        "$P save -q -o $W/pd.tar $HUB/acme/podman-build:1 && $S copy docker-archive:$W/pd.tar oci:$L:x",
    ),
    ("podman-import", "tar -cC $T f | $P import -qm said -c CMD=x - $R && $P push -q $R"),
    ("podman-zstd", "$P push -q --compression-format zstd $HUB/acme/podman-build:1 docker://$R"),
    ("podman-as-docker", "$P push -q --format v2s2 $HUB/acme/podman-build:1 docker://$R"),
    (
        "podman-list",
        "$P manifest create four && $P manifest add --tls-verify=false four docker://$HUB/acme/podman-build:1 && $P \
         manifest push --tls-verify=false -q --all four docker://$R",
    ),
    ("umoci-new", "umoci init --layout $L && umoci new --image $L:x"),
    ("umoci-insert", "umoci init --layout $L && umoci new --image $L:x && umoci insert --image $L:x $T/f /f"),
    (
        "umoci-config",
        "umoci init --layout $L && umoci new --image $L:x && umoci insert --image $L:x $T/f /f && umoci config --image $L:x \
         --config.user 1:2 --config.env A=1 --config.cmd x --config.entrypoint y --config.label a=b --config.volume /v \
         --config.workingdir /w --config.exposedports 80 --config.stopsignal 9 --author me --manifest.annotation a=b",
    ),
    (
        "umoci-two-names",
        "umoci init --layout $L && umoci new --image $L:x && umoci insert --image $L:x $T/f /f && umoci tag --image $L:x y",
    ),
    (
        "umoci-raw",
        "umoci init --layout $L && umoci new --image $L:x && tar -cC $T -f $W/raw.tar f && umoci raw add-layer --image \
         $L:x $W/raw.tar",
    ),
    (
        "umoci-repack",
        "umoci init --layout $L && umoci new --image $L:x && umoci unpack --image $L:x $W/unpacked && cp $T/f \
         $W/unpacked/rootfs/ && umoci repack --image $L:x $W/unpacked",
    ),
    ("skopeo-layout", "$S copy docker://$HUB/acme/docker-full:1 oci:$L:x"),
    ("skopeo-zstd", "$S copy --dest-compress --dest-compress-format zstd docker://$HUB/acme/docker-full:1 oci:$L:x"),
    ("skopeo-plain", "$S copy --dest-decompress docker://$HUB/acme/docker-full:1 oci:$L:x"),
    ("skopeo-as-docker", "$S copy -f v2s2 docker://$HUB/acme/buildah-oci:1 docker://$R"),
    ("skopeo-as-oci", "$S copy -f oci docker://$HUB/acme/docker-odd:1 docker://$R"),
    ("skopeo-all", "$S copy --all docker://$HUB/acme/docker-list:1 oci:$L:x"),
];
/// Options of `buildah config`.
const CONFIG: &str = "--env A=1 --user u --cmd x --label a=b --workingdir /w --entrypoint y";
const FULL: &str = "FROM scratch\nCOPY f /etc/f\nENV A=1 PATH=/bin\nLABEL a=b empty=\nUSER 1000:1000\nWORKDIR /etc\nVOLUME /data\n\
     EXPOSE 80\nSTOPSIGNAL SIGINT\nENTRYPOINT [\"/bin/x\"]\nCMD [\"y\"]\n";
const ODD: &str =
    "FROM scratch\nMAINTAINER me\nCOPY f /f\nCOPY f /g\nHEALTHCHECK NONE\nONBUILD USER x\nSHELL [\"/s\"]\nCMD a b\n";

/// An image that another program made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) name: String,
    /// The layout that the program wrote, or else it pushed the image.
    pub(super) layout: Option<PathBuf>,
    /// The reference under which it is on the registry, for those that were pushed.
    pub(super) reference: String,
}

impl Made {
    /// Returns how skopeo writes it.
    pub(super) fn place(&self) -> String {
        match (&self.layout, self.name_in_layout()) {
            (Some(layout), Some(name)) => format!("oci:{}:{name}", layout.display()),
            (Some(layout), None) => format!("oci:{}", layout.display()),
            (None, _) => format!("docker://{}", self.reference),
        }
    }

    /// Returns its name in the layout, where that has several.
    pub(super) fn name_in_layout(&self) -> Option<&'static str> {
        (self.name == "umoci-two-names").then_some("y")
    }
}

/// Makes all images.
pub(super) fn all(fixture: &Fixture) -> Result<Vec<Made>> {
    let (tree, work) = (fixture.directory.join("tree"), fixture.directory.join("made"));
    fs_err::create_dir_all(&tree)?;
    fs_err::create_dir_all(&work)?;
    let plain = "FROM scratch\nCOPY f /f\n";
    for (name, text) in [("f", "content\n"), ("full", FULL), ("odd", ODD), ("plain", plain), ("Dockerfile", plain)] {
        fs_err::write(tree.join(name), text)?;
    }
    let mut made = Vec::new();
    for (name, script) in SCRIPTS {
        made.push(run(fixture, name, script, &work).map_err(|error| format!("{name}: {error}"))?);
    }
    made.push(attested(fixture, &work)?);
    Ok(made)
}

fn run(fixture: &Fixture, name: &str, script: &str, work: &Path) -> Result<Made> {
    let (hub, layout) = (fixture.hub.address(), work.join(name));
    let reference = format!("{hub}/acme/{name}:1");
    let registries = format!("--registries-conf {}", fixture.registries().display());
    let buildah = format!("{} {registries}", fixture.storage("buildah", "made"));
    let mut shell = Command::new("sh");
    shell.args(["-ec", script]).current_dir(work).env_remove("DOCKER_CONFIG");
    shell
        .env("B", buildah)
        .env("P", fixture.storage("podman", "made"))
        .env("S", format!("skopeo --insecure-policy {registries}"));
    shell.env("D", format!("{}/docker --host {}", docker::PROGRAMS, fixture.docker.host()));
    shell.env("HOME", work).env("T", fixture.directory.join("tree")).env("W", work).env("C", CONFIG);
    shell.env("HUB", hub).env("R", &reference).env("L", &layout);
    programs::output(shell.env("CONTAINERS_REGISTRIES_CONF", fixture.registries()))?;
    Ok(Made { name: name.to_owned(), layout: layout.is_dir().then_some(layout), reference })
}

/// An image with an attestation, as BuildKit writes one.
fn attested(fixture: &Fixture, work: &Path) -> Result<Made> {
    run(fixture, "attested", "$S copy -f oci docker://$HUB/acme/docker-buildkit-full:1 docker://$R", work)?;
    let hub = fixture.hub.address();
    by_hand::Repository { registry: &hub, path: "acme/attested", directory: work }.attest("1", "with")?;
    Ok(Made { name: "attested".to_owned(), layout: None, reference: format!("{hub}/acme/attested:with") })
}
