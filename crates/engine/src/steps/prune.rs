//! `prune`: a wheel without the GPU code that nobody needs. Its product is a wheel like any other.

use std::sync::Arc;

use kiln_fatbin::{PRUNE_VERSION, Selection};
use kiln_inflate::DEFLATE_VERSION;
use kiln_plan::gpu::Capability;
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::node::Node;
use crate::product::Wheel;
use crate::prune::WheelPruner;
use crate::step::{Cost, Kind, Level, Read, Step, Subject};

/// Bytes of a wheel that is worth looking into though it is for any platform.
const LARGE: u64 = 16 << 20;

/// A wheel whose GPU code is cut.
#[derive(Serialize)]
pub(crate) struct Prune {
    wheel: Node<Wheel>,
    gpus: Vec<Capability>,
    keep_ptx: bool,
    drop_relocatable: bool,
    /// Patterns of files that may lack code for the GPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    except: Vec<String>,
    pruner: u32,
    deflate: u32,
    #[serde(skip)]
    subject: Subject,
    #[serde(skip)]
    bytes: u64,
}

impl Prune {
    pub(crate) fn new(
        subject: Subject,
        wheel: Node<Wheel>,
        bytes: u64,
        selection: &Selection,
        except: &[String],
    ) -> Self {
        Self {
            wheel,
            gpus: selection.gpus.clone(),
            keep_ptx: selection.keep_ptx,
            drop_relocatable: selection.drop_relocatable,
            except: except.to_vec(),
            pruner: PRUNE_VERSION,
            deflate: DEFLATE_VERSION,
            subject,
            bytes,
        }
    }

    /// Tells if a wheel may hold GPU code: one for any platform holds no libraries, but loose cubins if it is large
    /// (flashinfer-cubin).
    pub(crate) fn concerns(file: &str, bytes: u64) -> bool {
        !file.ends_with("-any.whl") || bytes >= LARGE
    }
}

impl Step for Prune {
    type Product = Wheel;
    const KIND: Kind = Kind { name: "prune", version: 2 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Read> {
        vec![self.wheel.at(Level::Here)]
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(self.bytes)
    }

    fn perform(&self, context: &Context<'_>) -> Result<Wheel> {
        let (workshop, wheel) = (context.workshop, context.get(self.wheel));
        let file = workshop.open_wheel(wheel)?;
        let work = context.work("prune", &wheel.file, wheel.size);
        let temporary = workshop.store.temporary_directory()?;
        let selection =
            Selection { gpus: self.gpus.clone(), keep_ptx: self.keep_ptx, drop_relocatable: self.drop_relocatable };
        let pruner = WheelPruner {
            selection: &selection,
            pool: workshop.crew()?,
            threads: workshop.surroundings.jobs,
            temporary: temporary.path(),
            work: &work,
            except: Some(&self.except),
        };
        let cut = pruner.cut(&wheel.file, Arc::new(file))?;
        if !cut.is_changed() {
            workshop.keep_at_hand(wheel.digest, cut.at_hand());
            return Ok(wheel.clone());
        }
        let mut writer = workshop.store.writer()?;
        cut.write(&pruner, &mut writer)?;
        let (digest, size) = writer.finish()?;
        let (file, kept) = (cut.file_name(&wheel.file), Some(cut.kept().to_string()));
        workshop.keep_at_hand(digest, cut.at_hand());
        Ok(Wheel { file, digest, size: Some(size), kept })
    }
}
