//! `gpu-code`: an image has the GPU code that its stack demands. The check fails nothing: images that do not pass are built
//! and not delivered.

use kiln_fatbin::Coverage;
use kiln_oci::image::Image;
use kiln_plan::gpu::{Capability, GpuNames};
use kiln_plan::stack::GpuCode as Demand;
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::node::Node;
use crate::product::Verdict;
use crate::step::{Cost, Keep, Kind, Level, Read, Step, Subject};
use crate::verify::{Judge, is_served};

/// The GPU code of an image.
#[derive(Serialize)]
pub(crate) struct GpuCode {
    image: Node<Image>,
    gpus: Vec<Capability>,
    /// Code as PTX alone is not enough.
    native: bool,
    /// Patterns of files that may lack code.
    except: Vec<String>,
    /// The names that its GPUs were asked for under.
    #[serde(skip)]
    names: GpuNames,
    #[serde(skip)]
    subject: Subject,
}

impl GpuCode {
    pub(crate) fn new(
        subject: Subject,
        image: Node<Image>,
        (gpus, names): (Vec<Capability>, GpuNames),
        demand: Demand,
        except: Vec<String>,
    ) -> Self {
        Self { image, gpus, native: demand == Demand::Native, except, names, subject }
    }
}

impl Step for GpuCode {
    type Product = Verdict;
    const KIND: Kind = Kind { name: "gpu-code", version: 3 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Read> {
        vec![self.image.at(Level::Known)]
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(0)
    }

    fn keep(&self) -> Keep {
        Keep::Here
    }

    fn warnings(&self, product: &Verdict) -> Vec<String> {
        product.warnings.clone()
    }

    fn perform(&self, context: &Context<'_>) -> Result<Verdict> {
        let (workshop, image) = (context.workshop, context.get(self.image));
        let judge = Judge { gpus: self.gpus.clone(), except: self.except.clone(), ..Judge::default() };
        let found = workshop.verify_image(&self.subject.to_string(), image, &judge)?;
        let mut verdict = Verdict::default();
        let mut compiled = false;
        for file in &found.code {
            if file.damaged {
                verdict.failures.push(format!("{}: {}", file.path, file.problems.join("; ")));
            }
            for code in &file.verdicts {
                let excused = file.excuses.contains_key(&code.gpu.to_string());
                compiled |= code.coverage == Coverage::Ptx;
                let refused = !is_served(code) || (self.native && code.coverage == Coverage::Ptx);
                if refused && !excused {
                    verdict.failures.push(format!("{}: {}: {code}", file.path, self.names.label(code.gpu)));
                }
            }
        }
        let unmatched = found.unmatched.iter();
        verdict.warnings.extend(
            unmatched.map(|pattern| format!("the pattern `{pattern}` of `except` is like no file of {}", self.subject)),
        );
        if compiled && verdict.failures.is_empty() {
            verdict.warnings.push(format!(
                "GPU code is there as PTX alone, which the driver compiles at the first start: `kiln verify {}` names \
                 the files",
                self.subject
            ));
        }
        Ok(verdict)
    }
}
