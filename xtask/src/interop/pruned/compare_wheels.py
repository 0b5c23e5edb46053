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


def files(archive):
    """Names of files, and whether they are programs. Directories are of no use in a wheel, and RECORD comes last."""
    return {info.filename: info.external_attr >> 16 & 0o111 for info in archive.infolist() if not info.is_dir()}


assert files(old) == files(new), "files differ"
assert len(new.namelist()) == len(set(new.namelist())), "a file is there twice"
[record] = [name for name in new.namelist() if name.endswith(".dist-info/RECORD")]
wheel = record.removesuffix("RECORD") + "WHEEL"
written = {row[0]: (row[1], row[2]) for row in csv.reader(io.StringIO(new.read(record).decode()))}
assert set(written) >= set(files(new)), "RECORD does not list every file"
assert pruned and pruned <= set(files(new)), f"{pruned} are not in the wheel"
assert b"\nBuild: " in new.read(wheel), "WHEEL has no build tag"
for name in files(new).keys() - {record}:
    found = digest(new, name)
    assert found == written[name], f"RECORD says {written[name]} for {name}, which is {found}"
    changed = found != digest(old, name)
    assert changed == (name in pruned | {wheel}), f"{name}: changed is {changed}"
print("as it should be")
