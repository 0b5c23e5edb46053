"""Compares a wheel with what became of it: `OLD NEW LIBRARY...`, the libraries being those that were pruned."""

import base64
import csv
import hashlib
import io
import sys
import zipfile

old, new = (zipfile.ZipFile(path) for path in sys.argv[1:3])
pruned = set(sys.argv[3:])


def digest(archive, name):
    hasher, size = hashlib.sha256(), 0
    with archive.open(name) as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
            size += len(piece)
    return "sha256=" + base64.urlsafe_b64encode(hasher.digest()).rstrip(b"=").decode(), str(size)


def entries(archive):
    return [(info.filename, info.external_attr >> 16) for info in archive.infolist()]


assert entries(old) == entries(new), "names, their order, or modes differ"
[record] = [name for name in new.namelist() if name.endswith(".dist-info/RECORD")]
wheel = record.removesuffix("RECORD") + "WHEEL"
written = {row[0]: (row[1], row[2]) for row in csv.reader(io.StringIO(new.read(record).decode()))}
assert set(written) >= {name for name in new.namelist() if not name.endswith("/")}, "RECORD does not list every file"
assert pruned and pruned <= set(new.namelist()), f"{pruned} are not in the wheel"
assert b"\nBuild: " in new.read(wheel), "WHEEL has no build tag"
for name in new.namelist():
    if name.endswith("/") or name == record:
        continue
    found = digest(new, name)
    if any(written[name]):
        assert found == written[name], f"RECORD says {written[name]} for {name}, which is {found}"
    assert (found == digest(old, name)) == (name not in pruned | {wheel}), f"{name} should" + (
        " differ" if name in pruned | {wheel} else " be as it was"
    )
print("as it should be")
