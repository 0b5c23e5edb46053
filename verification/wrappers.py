"""Imports PyTorch, uses the GPU if there is one, and walks what every loaded library registers with the CUDA runtime.

Every wrapper of every library that is in memory must lead to a region whose entries can be read to the end.
"""

import ctypes
import struct
import subprocess
import sys

import torch

torch.randn(64, 64) @ torch.randn(64, 64)
if torch.cuda.is_available():
    a = torch.randn(64, 64, device="cuda")
    torch.linalg.inv(a @ a).sum().item()
try:
    torch.zeros(2) + torch.zeros(3)
except RuntimeError:
    pass  # exceptions cross the libraries: the unwinder finds its tables


def wrappers(path):
    for line in subprocess.run(["readelf", "-SW", path], capture_output=True, text=True).stdout.splitlines():
        fields = line.replace("[ ", "[").split()
        if len(fields) > 5 and fields[1] == ".nvFatBinSegment":
            yield int(fields[3], 16), int(fields[5], 16)


bases = {}
for line in open("/proc/self/maps"):
    fields = line.split()
    if len(fields) > 5 and ".so" in fields[5]:
        bases.setdefault(fields[5], int(fields[0].split("-")[0], 16))
walked = entries = libraries = 0
for path, base in bases.items():
    found = list(wrappers(path))
    libraries += bool(found)
    for address, size in found:
        for at in range(base + address, base + address + size, 24):
            magic, _, region = struct.unpack("<IIQ", ctypes.string_at(at, 16))
            assert magic == 0x466243B1, f"{path}: no wrapper at {at:#x}"
            magic, version, header, left = struct.unpack("<IHHQ", ctypes.string_at(region, 16))
            assert (magic, version, header) == (0xBA55ED50, 1, 16), f"{path}: no region at {region:#x}"
            region += 16
            while left:
                header, payload = struct.unpack("<IQ", ctypes.string_at(region + 4, 12))
                ctypes.string_at(region, header + payload)
                region, left, entries = region + header + payload, left - header - payload, entries + 1
            walked += 1
print(f"{torch.__file__}: {libraries} libraries, {walked} wrappers, {entries} entries: every one could be walked")
sys.exit(walked == 0)
