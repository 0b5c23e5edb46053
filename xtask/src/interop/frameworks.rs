//! Images over a base that has its own build of torch, as NVIDIA's, AMD's and frameworks' images do: real packages that need
//! torch, triton and torchvision are locked over it, installed and imported, and nothing of the base is touched.
//!
//! Such bases are on registries that cannot be reached, so one is made: the real wheels of torch, triton and torchvision under
//! the versions and names that NVIDIA gives them, in Debian's Python, with a file of constraints for pip.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::report::{Checks, same};
use super::stack::{self, Image};
use super::{Result, Suite, programs, running, unpacked};

/// The version that the base's torch says.
const TORCH: &str = "2.11.0a0+5228986c39.nv25.5";
/// Wheels of the base: what an index has, and what the base calls it.
const WHEELS: [(&str, &str, &str); 3] = [
    ("torch==2.11.0", "torch", TORCH),
    ("triton==3.6.0", "pytorch_triton", "3.6.0+git96316ce52.nvinternal"),
    ("torchvision==0.26.0", "torchvision", "0.26.0a0+95f10a4e"),
];

/// Packages of a real project, what they need of the base said, and modules of them.
struct Set {
    name: &'static str,
    packages: &'static [&'static str],
    python: &'static str,
    modules: &'static [&'static str],
}

const fn set(
    name: &'static str,
    packages: &'static [&'static str],
    python: &'static str,
    modules: &'static [&'static str],
) -> Set {
    Set { name, packages, python, modules }
}

/// Packages as real projects have them that stand on such bases. The base's fsspec is too new for datasets.
#[rustfmt::skip]
const SETS: [Set; 10] = [
    set("finetune", &["transformers==4.57.3", "peft==0.18.0", "trl==0.25.1", "datasets==3.2.0", "pyarrow==18.1.0"], "replace = [\"fsspec\"]", &["peft", "trl", "datasets"]),
    set("serve", &["accelerate==1.12.0", "safetensors==0.7.0", "fastapi==0.121.0", "uvicorn==0.38.0"], "", &["accelerate", "fastapi"]),
    set("diffusion", &["diffusers==0.35.2", "compel==2.2.1", "ftfy==6.3.1"], "", &["diffusers", "compel"]),
    set("vision", &["timm==1.0.22", "kornia==0.8.2", "albumentations==2.0.8"], "", &["timm", "kornia", "albumentations"]),
    set("clip", &["open-clip-torch==3.2.0", "webdataset==1.0.2"], "", &["open_clip", "webdataset"]),
    set("lightning", &["lightning==2.5.6", "torchmetrics==1.8.2", "jsonargparse==4.43.0"], "", &["lightning", "torchmetrics", "jsonargparse"]),
    set("embeddings", &["sentence-transformers==5.1.2", "faiss-cpu==1.12.0"], "", &["sentence_transformers", "faiss"]),
    set("segmentation", &["segmentation-models-pytorch==0.5.0", "monai==1.5.1"], "", &["segmentation_models_pytorch", "monai"]),
    set("graphs", &["torch-geometric==2.7.0", "pytorch-ignite==0.5.3", "einops==0.8.1"], "", &["torch_geometric", "ignite", "einops"]),
    set("kernels", &["liger-kernel==0.6.3", "bitsandbytes==0.48.2"], "accept = [\"triton\"]", &["liger_kernel", "bitsandbytes"]),
];

/// Makes the checks.
pub(crate) fn check(suite: &Suite, checks: &mut Checks) {
    let made = checks.check("kiln builds a base with a torch of its own", || base(suite));
    let Some(base) = made else { return };
    let built = checks.check("ten sets of requirements are locked and built over it", || over(suite));
    let Some(images) = built else { return };
    checks.check("no image has a torch, a triton or a torchvision of its own, and all have the base's layers", || {
        for image in images.iter().filter(|image| image.name != base.name) {
            same(&format!("the base below `{}`", image.name), image.layers.starts_with(&base.layers), true)?;
        }
        let lock = fs_err::read_to_string(project(suite).join("kiln.lock"))?;
        let (_, packages) = lock.split_once("[[image]]").ok_or("a lock without images")?;
        for name in ["torch", "triton", "pytorch-triton", "torchvision"] {
            same(
                &format!("whether {name} is locked"),
                packages.contains(&format!("name = \"{name}\", version")),
                false,
            )?;
        }
        Ok(())
    });
    let bundle = project(suite).join("bundle");
    let rootfs =
        checks.check("umoci unpacks the base", || unpacked::unpack(&project(suite).join("base"), "base", &bundle));
    let Some(rootfs) = rootfs else { return };
    for Set { name, modules, .. } in SETS {
        checks.check(&format!("what `{name}` adds can be imported beside the base's torch"), || {
            let image = stack::image(&images, name)?;
            imports(suite, &rootfs, &image.layers[base.layers.len()..], modules)
        });
    }
    suite.remove("frameworks");
}

fn project(suite: &Suite) -> PathBuf {
    suite.work.join("frameworks")
}

/// Builds the base into the layout `base`.
fn base(suite: &Suite) -> Result<Image> {
    let project = project(suite).join("made");
    let wheels = project.join("wheels");
    fs_err::create_dir_all(&wheels)?;
    let downloads = project.join("downloads");
    for (requirement, name, version) in WHEELS {
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--python-version",
            "3.11",
        ]);
        programs::output(pip.args(["--platform", "manylinux_2_28_x86_64", "--dest"]).arg(&downloads).arg(requirement))?;
        let old = requirement.split("==").next().unwrap_or_default();
        let file = fs_err::read_dir(&downloads)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{old}-"))))
            .ok_or_else(|| format!("pip brought no {requirement}"))?;
        let mut rename = Command::new("python3");
        rename.args(["-c", include_str!("frameworks/rename.py")]).arg(&file).arg(&wheels).args([name, version]);
        programs::output(rename.args(["triton=pytorch-triton", "torch=torch"]))?;
    }
    fs_err::remove_dir_all(&downloads)?;
    let text = format!(
        "[stack]\nname = \"made\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\n[index]\n\
         find-links = [\"wheels\"]\n\n[images.base]\nfrom = {{ debian = \"bookworm\", include = [\"python3\"] }}\n\
         python.environment = \"base\"\npackages = [\"torch=={TORCH}\", \"torchvision\", \"numpy==1.26.4\"]\n\
         env = {{ PIP_CONSTRAINT = \"/etc/pip/constraint.txt\" }}\n\
         files = [{{ to = \"/etc/pip/constraint.txt\", text = \"numpy==1.26.4\\nfsspec==2020.1.1\\n\" }}]\n"
    );
    stack::write(&project, &text)?;
    let layout = self::project(suite).join("base");
    let images = suite.build(&project, &["--output", &format!("oci:{}", layout.display())])?;
    stack::image(&images, "base").cloned()
}

/// Builds an image for each set over the base.
fn over(suite: &Suite) -> Result<Vec<Image>> {
    let mut text =
        "[stack]\nname = \"over\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n".to_owned();
    for Set { name, packages, python, .. } in SETS {
        let packages: Vec<String> = packages.iter().map(|package| format!("{package:?}")).collect();
        text += &format!("\n[images.{name}]\nfrom = {{ oci = \"base\" }}\npackages = [{}]\n", packages.join(", "));
        text += &format!("python = {{ {python} }}\n");
    }
    stack::write(&project(suite), &text)?;
    suite.build(&project(suite), &["--output", &format!("oci:{}", project(suite).join("layout").display())])
}

/// Imports modules in an image: the base's root file system, with the image's own layers over it.
fn imports(suite: &Suite, rootfs: &Path, layers: &[stack::Layer], modules: &[&str]) -> Result<()> {
    let place = project(suite).join("over");
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| place.join(name));
    for directory in [&upper, &work, &merged] {
        fs_err::create_dir_all(directory)?;
    }
    for layer in layers {
        let blob = project(suite).join("layout/blobs").join(layer.digest.replace(':', "/"));
        programs::output(Command::new("tar").args(["--extract", "--gzip", "--file"]).arg(blob).arg("-C").arg(&upper))?;
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", rootfs.display(), upper.display(), work.display());
    programs::output(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged))?;
    let told = run(&merged, modules);
    programs::output(Command::new("umount").arg(&merged))?;
    fs_err::remove_dir_all(&place)?;
    told
}

fn run(rootfs: &Path, modules: &[&str]) -> Result<()> {
    let code = format!(
        "import {}, torch, triton, torchvision, importlib.metadata as m\n\
         print(torch.__file__.startswith('/usr/local/lib/'), m.version('torch'), triton.__file__.startswith('/usr/local/lib/'))\n\
         torch.ones(3).sum()\n",
        modules.join(", ")
    );
    let mut python = running::chroot(rootfs, "/opt/venv/bin/python");
    let printed = programs::text(python.args(["-W", "ignore", "-c", &code]))?;
    same("torch and triton", printed.lines().last().unwrap_or_default().trim(), format!("True {TORCH} True").as_str())?;
    let mut torchrun = running::chroot(rootfs, "/opt/venv/bin/torchrun");
    programs::output(torchrun.arg("--help")).map(|_| ())
}
