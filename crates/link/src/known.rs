//! Libraries that need not be in the tree.

/// Libraries of NVIDIA's driver by the beginnings of their names: what the container toolkit mounts into a container
/// (libnvidia-container, `src/nvc_info.c`). All but these begin with `libnvidia-`.
const DRIVER: [&str; 9] = [
    "libcuda.so",
    "libcudadebugger.so",
    "libnvcuvid.so",
    "libnvoptix.so",
    "libvdpau_nvidia.so",
    "libGLX_nvidia.so",
    "libEGL_nvidia.so",
    "libGLESv1_CM_nvidia.so",
    "libGLESv2_nvidia.so",
];
/// Libraries whose names look like the driver's: the container toolkit's own.
const NOT_DRIVER: [&str; 1] = ["libnvidia-container"];

/// Libraries that every system with glibc that runs Python has: glibc itself, the run-time libraries of GCC, and zlib
/// (the part of PEP 600's list that is no matter of graphics).
const SYSTEM: [&str; 18] = [
    "libc.so.6",
    "libm.so.6",
    "libmvec.so.1",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
    "libresolv.so.2",
    "libanl.so.1",
    "libnsl.so.1",
    "libthread_db.so.1",
    "libBrokenLocale.so.1",
    "libnss_files.so.2",
    "libnss_dns.so.2",
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libcrypt.so.1",
    "libz.so.1",
];
/// The loader, by the beginning of its name: the rest is the processor.
const LOADER: &str = "ld-linux-";

/// Modules of Python packages that work without what these need, by what their paths hold, each with its source.
const OPTIONAL: [&str; 6] = [
    // Numba's threading layers: it takes the first that can be imported, and has one of its own (Numba, "The Threading
    // Layers").
    "numba/np/ufunc/omppool.",
    "numba/np/ufunc/tbbpool.",
    // torchaudio and torchcodec have a library for each release of FFmpeg and take the one that loads (torio,
    // `_extension/utils.py`; torchcodec, `_core/ops.py`).
    "torio/lib/",
    "torchcodec/libtorchcodec_",
    // CuPy's bindings of cuDNN, NCCL and cuTENSOR are imported where those are installed (CuPy, "Additional CUDA
    // Libraries").
    "cupy_backends/cuda/libs/",
    // mpi4py is imported by what runs under MPI.
    "mpi4py/MPI.",
];

/// Whether a package works without a module.
pub(crate) fn is_optional(path: &str) -> bool {
    OPTIONAL.iter().any(|part| path.contains(part))
}

/// Whether the driver of the host brings a library.
pub(crate) fn is_of_the_driver(library: &str) -> bool {
    let begins = |names: &[&str]| names.iter().any(|name| library.starts_with(name));
    begins(&DRIVER) || (library.starts_with("libnvidia-") && library.contains(".so") && !begins(&NOT_DRIVER))
}

/// Whether a library comes with every system.
pub(crate) fn is_of_the_system(library: &str) -> bool {
    SYSTEM.contains(&library) || library.starts_with(LOADER)
}
