//! A layout that kiln wrote is read back as a base, and images stand on it and on one another: their packages go into its
//! environment, which its `PATH` finds first.

use std::path::Path;

use super::report::{Checks, none, same};
use super::stack::{self, Built, Image};
use super::tree::Tree;
use super::{Result, Suite, packages, running, unpacked};

/// Makes the checks; `below` is the root of the image that becomes the base.
pub(crate) fn check(suite: &Suite, built: &Built, below: &Path, checks: &mut Checks) {
    let Some(images) = checks.check("kiln builds tiers on a layout that it wrote", || build(suite, built)) else {
        return;
    };
    checks.check("a tier has the layers of what it stands on, and more", || {
        let (first, second) = (stack::image(&images, "first")?, stack::image(&images, "second")?);
        stands_on(first, built.image("awkward")?)?;
        stands_on(second, first)
    });
    let project = suite.work.join("tiers");
    let rootfs = checks.check("umoci unpacks the upper tier", || {
        unpacked::unpack(&project.join("layout"), "second", &suite.work.join("second"))
    });
    let Some(rootfs) = rootfs else { return };
    checks.check("packages of all tiers can be imported", || {
        running::import(&rootfs, &[&packages::IMPORTS[..], &["humanize", "tabulate"]].concat())
    });
    checks.check("tiers leave alone what they stand on", || {
        let (above, below) = (Tree::read(&rootfs.join("opt"))?, Tree::read(&below.join("opt"))?);
        none("paths are gone or changed", &changed(&below, &above)?)
    });
}

fn build(suite: &Suite, built: &Built) -> Result<Vec<Image>> {
    let project = suite.work.join("tiers");
    let text = format!(
        "[stack]\nname = \"tiers\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\n\
         [images.second]\nfrom = \"first\"\npackages = [\"{}\"]\npython.environment = \"base\"\n\n\
         [images.first]\nfrom = {{ oci = \"base\" }}\npackages = [\"{}\"]\npython.environment = \"base\"\n",
        packages::SECOND_MORE,
        packages::FIRST_MORE,
    );
    stack::write(&project, &text)?;
    let base = format!("oci:{}", project.join("base").display());
    suite.build(&built.project, &["--locked", "awkward", "--output", &base])?;
    suite.build(&project, &["--output", &format!("oci:{}", project.join("layout").display())])
}

fn stands_on(above: &Image, below: &Image) -> Result<()> {
    let begins = above.layers.starts_with(&below.layers) && above.layers.len() > below.layers.len();
    same(&format!("whether `{}` begins with the layers of `{}`", above.name, below.name), begins, true)
}

/// What lies in one tree and not, or otherwise, in another that has more.
fn changed(below: &Tree, above: &Tree) -> Result<Vec<String>> {
    let nodes = above.nodes.iter().filter(|(path, _)| below.nodes.contains_key(*path));
    let common = Tree { root: above.root.clone(), nodes: nodes.map(|(p, n)| (p.clone(), n.clone())).collect() };
    super::tree::differences(below, &common)
}
