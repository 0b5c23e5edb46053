"""Fourier transforms of many lengths through cuFFT, by way of PyTorch: `transforms.py OUT.json`.

cuFFT has code of one architecture in each of thousands of regions, and chooses by length, type and layout which it loads. Each
transform is named; its result is kept as the SHA-256 of the bytes.
"""

import hashlib
import json
import sys

import torch

results = {}
PRIMES = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 61, 97, 127, 131, 251, 509, 1021, 2039, 4093, 8191, 10007]
POWERS = [base**power for base in (2, 3, 5, 7, 11, 13) for power in range(1, 23) if base**power <= 1 << 22]
MIXED = [6, 10, 12, 30, 60, 84, 100, 210, 360, 480, 720, 1000, 1001, 1920, 2310, 3000, 4096 * 3, 10000, 30030, 65520, 100000, 999999]
LENGTHS = sorted({*PRIMES, *POWERS, *MIXED})
TYPES = {"f32": torch.float32, "f64": torch.float64, "f16": torch.float16}
SHAPES = [(8, 8), (12, 18), (31, 33), (64, 64), (100, 120), (127, 128), (256, 256), (480, 640), (1024, 1024), (2048, 81)]
VOLUMES = [(4, 4, 4), (7, 11, 13), (16, 16, 16), (20, 24, 30), (32, 32, 32), (33, 33, 33), (64, 64, 64), (128, 128, 128)]


def random(shape, dtype):
    generator = torch.Generator(device="cuda").manual_seed(sum(shape))
    return torch.randn(*shape, device="cuda", generator=generator, dtype=torch.float64).to(dtype)


def record(name, operation):
    try:
        out = operation()
        torch.cuda.synchronize()
    except Exception as error:
        results[name] = {"error": repr(error)[:300]}
        return
    raw = torch.view_as_real(out) if out.is_complex() else out
    raw = raw.contiguous().cpu()
    results[name] = {
        "sha256": hashlib.sha256(raw.view(torch.uint8).numpy().tobytes()).hexdigest(),
        "mean": float(raw.double().abs().mean()),
    }


def every(name, data, dimensions):
    """All kinds of transforms of real data over the last dimensions."""
    axes = tuple(range(-dimensions, 0))
    whole = torch.complex(data, data.flip(-1))
    record(f"complex {name}", lambda: torch.fft.fftn(whole, dim=axes))
    record(f"inverse {name}", lambda: torch.fft.ifftn(whole, dim=axes))
    record(f"real {name}", lambda: torch.fft.rfftn(data, dim=axes))
    shape = data.shape[-dimensions:]
    record(f"to real {name}", lambda: torch.fft.irfftn(torch.fft.rfftn(data, dim=axes), s=shape, dim=axes))


for type_name, dtype in TYPES.items():
    # Half precision knows powers of two alone.
    fits = (lambda length: length & (length - 1) == 0) if dtype == torch.float16 else (lambda length: True)
    for length in filter(fits, LENGTHS):
        for batch in (1, 3, 64) if length <= 1 << 16 else (1,):
            every(f"{type_name} {batch} x {length}", random((batch, length), dtype), 1)
    for shape in [*SHAPES, *VOLUMES]:
        if all(map(fits, shape)):
            every(f"{type_name} {shape}", random((2, *shape), dtype), len(shape))
    if dtype != torch.float16:
        for length in (16, 100, 243, 1021, 4096):
            data = random((length, 40), dtype)
            record(f"strided {type_name} {length}", lambda: torch.fft.fft(torch.complex(data, data), dim=0))

results["(torch)"] = {"file": torch.__file__, "version": torch.__version__}
json.dump(results, open(sys.argv[1], "w"), indent=1)
