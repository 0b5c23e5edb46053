#!/usr/bin/env bash
# Prunes the PyTorch of this machine to its own GPUs and compares what both compute: `prove.sh KILN OUT`.
# Needs PyTorch, a GPU, and as much disk space as the installed packages take up. Writes the results to the directory OUT.
set -euo pipefail
kiln=$(realpath "${1:?the kiln program}")
out=$(realpath "${2:?a directory for results}")
here=$(dirname "$(realpath "$0")")
site=$(python3 -c 'import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset CUDA_MODULE_LOADING
status=0

"$kiln" prune "$site" -o "$work/pruned" --gpus native | tee "$out/prune.txt" | tail -1
"$kiln" prune "$site" -o "$work/minimal" --gpus native --drop-relocatable | tail -1

operations() { # NAME MODE PATH [PROGRAM]
    TORCHINDUCTOR_CACHE_DIR="$work/inductor-$1" TRITON_CACHE_DIR="$work/triton-$1" CUDA_CACHE_DISABLE=1 \
        CUDA_MODULE_LOADING=$2 PYTHONPATH=$3 python3 "$here/${4:-operations.py}" "$out/$1.json" 2> "$out/$1.log" ||
        { tail -5 "$out/$1.log"; exit 1; }
}
plain=()
for run in 1 2 3 4 5; do
    operations "plain-$run" LAZY ""
    plain+=("$out/plain-$run.json")
done
operations pruned-lazy LAZY "$work/pruned"
operations pruned-eager EAGER "$work/pruned"
operations minimal-lazy LAZY "$work/minimal"
python3 "$here/compare.py" "${plain[@]}" -- "$out"/{pruned-lazy,pruned-eager,minimal-lazy}.json || status=1

operations fft-first LAZY "" transforms.py
operations fft-second LAZY "" transforms.py
operations fft-lazy LAZY "$work/pruned" transforms.py
operations fft-eager EAGER "$work/pruned" transforms.py
python3 "$here/compare.py" "$out"/fft-{first,second}.json -- "$out"/fft-{lazy,eager}.json || status=1

if [ "$(nvidia-smi --list-gpus | wc -l)" -gt 1 ]; then
    collectives() { PYTHONPATH=$2 python3 "$here/collectives.py" "$out/$1.json" 2> "$out/$1.log" || { tail -5 "$out/$1.log"; exit 1; }; }
    collectives nccl-first ""
    collectives nccl-second ""
    collectives nccl-pruned "$work/pruned"
    collectives nccl-minimal "$work/minimal"
    python3 "$here/compare.py" "$out"/nccl-{first,second}.json -- "$out"/nccl-{pruned,minimal}.json || status=1
fi
PYTHONPATH=$work/pruned python3 "$here/wrappers.py"
exit "$status"
