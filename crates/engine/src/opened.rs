//! Libraries that packages open by name while they run, which no `DT_RUNPATH` leads to: the loader finds them where
//! `LD_LIBRARY_PATH` says (ld.so(8)).

/// Packages that open CUDA's libraries so: CTranslate2 calls `dlopen("libcudnn_ops.so.9")`, `libcublas.so.12` and others, and
/// ONNX Runtime loads a provider that needs them and has no path (CTranslate2's and ONNX Runtime's documentation of CUDA).
const OPENERS: [&str; 2] = ["ctranslate2", "onnxruntime-gpu"];

/// Returns the directories of NVIDIA's wheels below a site directory, where one of the packages opens libraries by name; `packages`
/// are names and versions. Wheels for CUDA 12 have one directory for each library, and those for CUDA 13 share one, but for the
/// libraries that are not of the toolkit.
pub(crate) fn directories(site: &str, packages: &[(&str, &str)]) -> Vec<String> {
    if !packages.iter().any(|(name, _)| OPENERS.contains(name)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (name, version) in packages {
        let Some(library) = name.strip_prefix("nvidia-") else { continue };
        let directory = match library.rsplit_once("-cu") {
            Some((library, release)) if release.chars().all(|c| c.is_ascii_digit()) => library.replace('-', "_"),
            // Of the toolkit, these alone have its version.
            _ if matches!(library, "cublas" | "cuda-runtime" | "cuda-nvrtc") => {
                format!("cu{}", version.split('.').next().unwrap_or_default())
            }
            _ => continue,
        };
        found.push(format!("/{site}/nvidia/{directory}/lib"));
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_nvidias_wheels_are_those_that_they_have() {
        let packages = [
            ("ctranslate2", "4.6"),
            ("nvidia-cublas-cu12", "12.8.4.1"),
            ("nvidia-cudnn-cu12", "9.10"),
            ("nvidia-cuda-runtime-cu12", "12.8.90"),
            ("numpy", "2"),
        ];
        let expected = ["/s/nvidia/cublas/lib", "/s/nvidia/cuda_runtime/lib", "/s/nvidia/cudnn/lib"];
        assert_eq!(directories("s", &packages), expected);
        let packages = [
            ("onnxruntime-gpu", "1.24"),
            ("nvidia-cublas", "13.1.0.3"),
            ("nvidia-cufft", "12.0.0.61"),
            ("nvidia-cudnn-cu13", "9.17"),
        ];
        assert_eq!(directories("s", &packages), ["/s/nvidia/cu13/lib", "/s/nvidia/cudnn/lib"]);
    }

    #[test]
    fn nothing_is_set_where_no_package_opens_libraries_by_name() {
        assert!(directories("s", &[("torch", "2.11.0"), ("nvidia-cublas", "13.1.0.3")]).is_empty());
    }
}
