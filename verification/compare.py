"""Compares results: `compare.py PLAIN... -- PRUNED...`.

The first come from the same libraries, so that what differs among them is noise. Of the others, an operation may differ
only where those do, and then not by more than ten times as much as they do from one another. Exits 1 otherwise.
"""

import json
import sys

paths = sys.argv[1:]
at = paths.index("--")
plain = [json.load(open(path)) for path in paths[:at]]
first = plain[0]
names = [name for name in first if not name.startswith("(")]
noisy = {name for name in names if any(other[name] != first[name] for other in plain)}
print(f"{len(names)} operations; in {len(plain)} runs without pruning {len(noisy)} differ: {', '.join(sorted(noisy)) or 'none'}")
errors = [name for name in names if "error" in first[name]]
print(f"without pruning {len(errors)} fail: {', '.join(errors) or 'none'}")


def close(name, result):
    if any(result == other[name] for other in plain):
        return True
    if any("mean" not in other for other in [result, *(run[name] for run in plain)]):
        return False
    means = [other[name]["mean"] for other in plain]
    return min(means) - 10 * (max(means) - min(means)) <= result["mean"] <= max(means) + 10 * (max(means) - min(means))


bad = 0
for path in paths[at + 1 :]:
    other = json.load(open(path))
    assert other["(torch)"]["file"] != first["(torch)"]["file"], "the same libraries were used"
    different = [name for name in names if other[name] != first[name]]
    wrong = [name for name in different if name not in noisy or not close(name, other[name])]
    bad += len(wrong)
    print(f"{path}: {len(different)} differ, {len(wrong)} beyond noise {wrong or ''}")
    for name in wrong:
        print("   ", name, first[name], other[name])
sys.exit(bad > 0)
