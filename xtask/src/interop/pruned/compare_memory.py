"""Compares code in data of a library with what the loader maps of the pruned one: `compare_memory.py OLD NEW SECTION`.

Each region of the old file is in memory at its old address as it was, or it is empty, or zeros. Prints how many are of each kind.
"""

import ctypes
import os
import struct
import sys
from collections import Counter

REGION = struct.pack("<IHH", 0xBA55ED50, 1, 16)


def section(file, name):
    """Address, offset and bytes of a section."""
    table, count, names = struct.unpack_from("<Q", file, 40)[0], *struct.unpack_from("<HH", file, 60)
    headers = [struct.unpack_from("<IIQQQQ", file, table + 64 * at) for at in range(count)]
    strings = headers[names][4]
    for header in headers:
        at = strings + header[0]
        if file[at : file.index(b"\0", at)].decode() == name:
            return header[3:]
    sys.exit(f"there is no section {name}")


def loaded_at(path):
    """The address at which a library is loaded."""
    ctypes.CDLL(path)
    with open("/proc/self/maps") as maps:
        return min(int(line.split("-")[0], 16) for line in maps if line.rstrip().endswith(os.path.realpath(path)))


old, new = open(sys.argv[1], "rb").read(), os.path.abspath(sys.argv[2])
address, offset, size = section(old, sys.argv[3])
base = loaded_at(new)
found, at = Counter(), offset
while (at := old.find(REGION, at, offset + size)) >= 0:
    whole = 16 + struct.unpack_from("<Q", old, at + 8)[0]
    memory = ctypes.string_at(base + address + at - offset, whole)
    kinds = {old[at : at + whole]: "same", REGION + bytes(whole - 8): "empty", bytes(whole): "zeros"}
    found[kinds.get(memory, "other")] += 1
    at += whole
print(", ".join(f"{kind} {count}" for kind, count in sorted(found.items())))
sys.exit(found["other"] > 0 or not found["same"] or not found["zeros"])
