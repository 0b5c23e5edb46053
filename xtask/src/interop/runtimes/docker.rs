//! Docker: layers that it unpacked one by one, put over one another by the kernel as for a container.

use std::path::Path;
use std::process::Command;

use crate::interop::registries::docker::Docker;
use crate::interop::{Result, programs};

/// Loads the image of an archive and looks at its root. A container has files of Docker's own besides, an image has not.
pub(super) fn look(docker: &Docker, archive: &Path, name: &str, look: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    docker.text(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    let upper = docker.text(&["image", "inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", name])?;
    let highest = Path::new(&upper).parent().ok_or("Docker keeps the image nowhere")?;
    let storage = highest.parent().ok_or("Docker keeps images nowhere")?;
    // Docker itself mounts them by these short names: the kernel takes a page of them.
    let mut layers = vec![format!("l/{}", fs_err::read_to_string(highest.join("link"))?.trim())];
    if let Ok(lower) = fs_err::read_to_string(highest.join("lower")) {
        layers.push(lower.trim().to_owned());
    }
    let (nothing, root) = (storage.join("nothing"), storage.join("looked-at"));
    fs_err::create_dir_all(&nothing)?;
    fs_err::create_dir_all(&root)?;
    layers.push("nothing".to_owned());
    let mut mount = Command::new("mount");
    mount.args(["-t", "overlay", "-o", &format!("ro,lowerdir={}", layers.join(":")), "overlay"]).arg(&root);
    programs::output(mount.current_dir(storage))?;
    let looked = look(&root);
    programs::output(Command::new("umount").arg(&root))?;
    looked
}
