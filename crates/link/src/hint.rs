//! What brings a library that is missing.

use std::fmt;

use serde::Serialize;

/// Something that can be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hint {
    /// Wheels of PyPI; several where the library does not say for which CUDA it is.
    Wheels(Vec<String>),
    /// A package of Debian 12. Later releases and Ubuntu may add to the name (`libglib2.0-0t64`).
    Debian(String),
}

/// A major version of CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cuda {
    /// Wheels end in `-cu12`.
    Twelve,
    /// Wheels of the toolkit have no ending; those of libraries with versions of their own end in `-cu13`.
    Thirteen,
}

/// How the wheels of a library are named.
enum Wheel {
    /// A part of the toolkit.
    Toolkit,
    /// A library with versions of its own.
    Own,
}

/// Libraries that NVIDIA's wheels bring: file, wheel without its ending, and the CUDA that it is for where the file
/// says so. The names are those of NVIDIA's projects on PyPI.
const WHEELS: [(&str, &str, Wheel, Option<Cuda>); 34] = {
    use Cuda::{Thirteen, Twelve};
    use Wheel::{Own, Toolkit};
    [
        ("libcublas.so.12", "nvidia-cublas", Toolkit, Some(Twelve)),
        ("libcublas.so.13", "nvidia-cublas", Toolkit, Some(Thirteen)),
        ("libcublasLt.so.12", "nvidia-cublas", Toolkit, Some(Twelve)),
        ("libcublasLt.so.13", "nvidia-cublas", Toolkit, Some(Thirteen)),
        ("libnvblas.so.12", "nvidia-cublas", Toolkit, Some(Twelve)),
        ("libnvblas.so.13", "nvidia-cublas", Toolkit, Some(Thirteen)),
        ("libcudart.so.12", "nvidia-cuda-runtime", Toolkit, Some(Twelve)),
        ("libcudart.so.13", "nvidia-cuda-runtime", Toolkit, Some(Thirteen)),
        ("libcupti.so.12", "nvidia-cuda-cupti", Toolkit, Some(Twelve)),
        ("libcupti.so.13", "nvidia-cuda-cupti", Toolkit, Some(Thirteen)),
        ("libnvrtc.so.12", "nvidia-cuda-nvrtc", Toolkit, Some(Twelve)),
        ("libnvrtc.so.13", "nvidia-cuda-nvrtc", Toolkit, Some(Thirteen)),
        ("libnvJitLink.so.12", "nvidia-nvjitlink", Toolkit, Some(Twelve)),
        ("libnvJitLink.so.13", "nvidia-nvjitlink", Toolkit, Some(Thirteen)),
        ("libcufft.so.11", "nvidia-cufft", Toolkit, Some(Twelve)),
        ("libcufft.so.12", "nvidia-cufft", Toolkit, Some(Thirteen)),
        ("libcufftw.so.11", "nvidia-cufft", Toolkit, Some(Twelve)),
        ("libcufftw.so.12", "nvidia-cufft", Toolkit, Some(Thirteen)),
        ("libcusolver.so.11", "nvidia-cusolver", Toolkit, Some(Twelve)),
        ("libcusolver.so.12", "nvidia-cusolver", Toolkit, Some(Thirteen)),
        ("libcusolverMg.so.11", "nvidia-cusolver", Toolkit, Some(Twelve)),
        ("libcusolverMg.so.12", "nvidia-cusolver", Toolkit, Some(Thirteen)),
        // These have the same version in both.
        ("libcurand.so.10", "nvidia-curand", Toolkit, None),
        ("libcusparse.so.12", "nvidia-cusparse", Toolkit, None),
        ("libcufile.so.0", "nvidia-cufile", Toolkit, None),
        ("libcufile_rdma.so.1", "nvidia-cufile", Toolkit, None),
        ("libnvtx3interop.so.1", "nvidia-nvtx", Toolkit, None),
        // Up to CUDA 12.8.
        ("libnvToolsExt.so.1", "nvidia-nvtx", Toolkit, Some(Twelve)),
        ("libcusparseLt.so.0", "nvidia-cusparselt", Own, None),
        ("libnccl.so.2", "nvidia-nccl", Own, None),
        ("libnvshmem_host.so.3", "nvidia-nvshmem", Own, None),
        ("libcudnn.so.9", "nvidia-cudnn", Own, None),
        ("libcudss.so.0", "nvidia-cudss", Own, None),
        ("libcutensor.so.2", "cutensor", Own, None),
    ]
};

/// Packages of Debian 12, by the library that they bring.
const DEBIAN: [(&str, &str); 67] = [
    ("libGL.so.1", "libgl1"),
    ("libGLX.so.0", "libglx0"),
    ("libOpenGL.so.0", "libopengl0"),
    ("libEGL.so.1", "libegl1"),
    ("libGLESv2.so.2", "libgles2"),
    ("libGLU.so.1", "libglu1-mesa"),
    ("libOSMesa.so.8", "libosmesa6"),
    ("libOpenCL.so.1", "ocl-icd-libopencl1"),
    ("libvulkan.so.1", "libvulkan1"),
    ("libX11.so.6", "libx11-6"),
    ("libXext.so.6", "libxext6"),
    ("libXrender.so.1", "libxrender1"),
    ("libXi.so.6", "libxi6"),
    ("libXrandr.so.2", "libxrandr2"),
    ("libXcursor.so.1", "libxcursor1"),
    ("libXfixes.so.3", "libxfixes3"),
    ("libxcb.so.1", "libxcb1"),
    ("libSM.so.6", "libsm6"),
    ("libICE.so.6", "libice6"),
    ("libfontconfig.so.1", "libfontconfig1"),
    ("libfreetype.so.6", "libfreetype6"),
    ("libglib-2.0.so.0", "libglib2.0-0"),
    ("libgobject-2.0.so.0", "libglib2.0-0"),
    ("libgthread-2.0.so.0", "libglib2.0-0"),
    ("libgomp.so.1", "libgomp1"),
    ("libstdc++.so.6", "libstdc++6"),
    ("libgcc_s.so.1", "libgcc-s1"),
    ("libatomic.so.1", "libatomic1"),
    ("libgfortran.so.5", "libgfortran5"),
    ("libquadmath.so.0", "libquadmath0"),
    ("libomp.so.5", "libomp5"),
    ("libtbb.so.12", "libtbb12"),
    ("libopenblas.so.0", "libopenblas0"),
    ("libblas.so.3", "libblas3"),
    ("liblapack.so.3", "liblapack3"),
    ("libnuma.so.1", "libnuma1"),
    ("libhwloc.so.15", "libhwloc15"),
    ("libibverbs.so.1", "libibverbs1"),
    ("librdmacm.so.1", "librdmacm1"),
    ("libmlx5.so.1", "ibverbs-providers"),
    ("libefa.so.1", "ibverbs-providers"),
    ("libfabric.so.1", "libfabric1"),
    ("libucp.so.0", "libucx0"),
    ("libucs.so.0", "libucx0"),
    ("libuct.so.0", "libucx0"),
    ("libmpi.so.40", "libopenmpi3"),
    ("liboshmem.so.40", "libopenmpi3"),
    ("libpmix.so.2", "libpmix2"),
    ("libpmi.so.0", "libpmi0"),
    ("libpmi2.so.0", "libpmi2-0"),
    ("libz.so.1", "zlib1g"),
    ("libzstd.so.1", "libzstd1"),
    ("liblzma.so.5", "liblzma5"),
    ("libbz2.so.1.0", "libbz2-1.0"),
    ("libexpat.so.1", "libexpat1"),
    ("libffi.so.8", "libffi8"),
    ("libssl.so.3", "libssl3"),
    ("libcrypto.so.3", "libssl3"),
    ("libcurl.so.4", "libcurl4"),
    ("libxml2.so.2", "libxml2"),
    ("libsqlite3.so.0", "libsqlite3-0"),
    ("libelf.so.1", "libelf1"),
    ("libjpeg.so.62", "libjpeg62-turbo"),
    ("libpng16.so.16", "libpng16-16"),
    ("libsndfile.so.1", "libsndfile1"),
    ("libaio.so.1", "libaio1"),
    ("libusb-1.0.so.0", "libusb-1.0-0"),
];

impl Cuda {
    /// Returns its number.
    pub(crate) fn major(self) -> u8 {
        match self {
            Self::Twelve => 12,
            Self::Thirteen => 13,
        }
    }

    /// The CUDA that some libraries are for, by those of them that say it.
    pub(crate) fn of<'n>(libraries: impl Iterator<Item = &'n String>) -> Option<Self> {
        libraries
            .into_iter()
            .find_map(|library| WHEELS.iter().find(|(file, ..)| file == library).and_then(|(_, _, _, cuda)| *cuda))
    }
}

impl Wheel {
    fn named(&self, stem: &str, cuda: Cuda) -> String {
        match (self, cuda) {
            (_, Cuda::Twelve) => format!("{stem}-cu12"),
            (Self::Own, Cuda::Thirteen) => format!("{stem}-cu13"),
            (Self::Toolkit, Cuda::Thirteen) => stem.to_owned(),
        }
    }
}

/// What brings a library; `cuda` is what its surroundings are for.
pub(crate) fn of(library: &str, cuda: Option<Cuda>) -> Option<Hint> {
    // cuDNN consists of parts that have their version in common.
    let part = library.starts_with("libcudnn_") && library.ends_with(".so.9");
    let library = if part { "libcudnn.so.9" } else { library };
    if let Some((_, stem, wheel, own)) = WHEELS.iter().find(|(file, ..)| *file == library) {
        let wheels = match own.or(cuda) {
            Some(cuda) => vec![wheel.named(stem, cuda)],
            None => vec![wheel.named(stem, Cuda::Twelve), wheel.named(stem, Cuda::Thirteen)],
        };
        return Some(Hint::Wheels(wheels));
    }
    let package = DEBIAN.iter().find(|(file, _)| *file == library)?.1;
    Some(Hint::Debian(package.to_owned()))
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wheels(wheels) => write!(f, "the wheel {} brings it", wheels.join(" or ")),
            Self::Debian(package) => write!(f, "Debian's package {package} brings it"),
        }
    }
}
