//! Packages of distributions: chosen once by the apt of what they are installed over.

use kiln_plan::lock::{Lock, LockedSystem};
use kiln_plan::platform::Platform;
use kiln_plan::stack;

use super::Upgrade;
use crate::debian::{Asked, inputs, no_base};
use crate::error::{BuildError, Result};
use crate::images::Images;
use crate::project::Project;

impl Project<'_> {
    /// Locks the packages of the base's distribution that an image wants, what it stands on being in `new`.
    pub(super) fn lock_system(
        &self,
        image: &stack::Image,
        platform: Platform,
        old: &Lock,
        new: &mut Lock,
        (upgrade, frozen): (&Upgrade, bool),
    ) -> Result<()> {
        let Some(wanted) = &self.stack.on(image, platform).system else { return Ok(()) };
        let inputs = inputs(self, new, image, platform)?;
        let known = old.system(&image.name, platform, &inputs);
        let before: Vec<_> = old
            .systems
            .iter()
            .filter(|one| one.image == image.name && one.platform == platform)
            .flat_map(|one| one.archives.iter().cloned())
            .collect();
        let locked = match known.filter(|_| frozen || *upgrade != Upgrade::Everything) {
            Some(known) => known.clone(),
            None if frozen => {
                let message = format!(
                    "the packages of `system` of `{}` were chosen for another list or another base",
                    image.name
                );
                return Err(BuildError::LockOutdated(message));
            }
            None => {
                let layers = Images::layers_below(self, image, platform, new)?;
                if layers.is_empty() {
                    return Err(no_base(wanted));
                }
                let asked = Asked {
                    workshop: &self.workshop,
                    name: format!("{} ({platform})", image.name),
                    layers: self.workshop.trees(&layers.iter().collect::<Vec<_>>())?,
                    platform,
                    below: 0,
                };
                let (archives, packages) = asked.choose(wanted, &self.directory, &before)?;
                LockedSystem { image: image.name.clone(), platform, inputs, archives, packages }
            }
        };
        new.systems.push(locked);
        Ok(())
    }
}
