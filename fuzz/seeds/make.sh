#!/usr/bin/env bash
# Makes the regions and shared objects that fuzzing of GPU code begins with, out of an empty kernel: `make.sh NVCC`.
# They are small enough to be kept; NVCC is that of CUDA 13.
set -euo pipefail
nvcc=$(realpath "${1:?the nvcc program}")
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > kernel.cu <<'CODE'
__device__ int counter;
__global__ void kernel(int *out) { *out = counter; }
CODE
every=(-gencode arch=compute_75,code=sm_75 -gencode arch=compute_90a,code=sm_90a
    -gencode arch=compute_100f,code=sm_100f -gencode arch=compute_120,code="[sm_120,compute_120]")
mkdir -p "$here/fatbin" "$here/prune"
for mode in none speed size; do
    "$nvcc" -fatbin "${every[@]}" --compress-mode=$mode -o "$here/fatbin/$mode.fatbin" kernel.cu
done
"$nvcc" -fatbin -gencode arch=compute_90,code=lto_90 -o "$here/fatbin/lto.fatbin" kernel.cu
"$nvcc" -fatbin -rdc=true "${every[@]}" -o "$here/fatbin/relocatable.fatbin" kernel.cu
"$nvcc" -cubin -arch=sm_90 -o "$here/fatbin/sm_90.cubin" kernel.cu
"$nvcc" -c "${every[@]}" -Xcompiler -fPIC -o kernel.o kernel.cu
ar rcs "$here/fatbin/library.a" kernel.o
gcc -shared -nostdlib -o "$here/prune/shared.so" kernel.o
gcc -shared -nostdlib -Wl,-z,pack-relative-relocs -o "$here/prune/packed.so" kernel.o
strip -o "$here/prune/stripped.so" "$here/prune/shared.so"
"$nvcc" -dc "${every[@]}" -Xcompiler -fPIC -o device.o kernel.cu
"$nvcc" -dlink "${every[@]}" -Xcompiler -fPIC -o link.o device.o
gcc -shared -nostdlib -o "$here/prune/linked.so" device.o link.o
