"""Compares results: `compare.py FIRST SECOND PRUNED...`.

FIRST and SECOND come from the same libraries, so that what differs between them is noise. Of any other, an operation may
differ only where these do, and then by as much as they do from one another, ten times over. Exits 1 otherwise.
"""

import json
import sys

first, second, *others = [json.load(open(path)) for path in sys.argv[1:]]
names = [name for name in first if not name.startswith("(")]
noisy = {name for name in names if first[name] != second[name]}
print(f"{len(names)} operations; from run to run {len(noisy)} differ: {', '.join(sorted(noisy)) or 'none'}")
errors = [name for name in names if "error" in first[name]]
print(f"without pruning {len(errors)} fail: {', '.join(errors) or 'none'}")


def close(name, result):
    if "mean" not in result or "mean" not in first[name]:
        return False
    noise = abs(first[name]["mean"] - second[name]["mean"])
    return abs(result["mean"] - first[name]["mean"]) <= 10 * noise + 1e-6 * abs(first[name]["mean"])


bad = 0
for path, other in zip(sys.argv[3:], others):
    assert other["(torch)"]["file"] != first["(torch)"]["file"], "the same libraries were used"
    different = [name for name in names if other[name] != first[name]]
    wrong = [name for name in different if name not in noisy or not close(name, other[name])]
    bad += len(wrong)
    print(f"{path}: {len(different)} differ, {len(wrong)} beyond noise {wrong or ''}")
    for name in wrong:
        print("   ", name, first[name], other[name])
sys.exit(bad > 0)
