"""Compares images over bases with what pip makes of the same bases: `compare.py ROOTFS OUT COUNT LAYERS`.

ROOTFS is the unpacked Debian that every base begins with, in LAYERS layers. OUT/N has `case.json` of case N, `said.txt` of kiln, and
either the layout `out` or nothing, where kiln refused. What differs is printed, and the number of cases of each outcome.
"""

import collections
import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tomllib

ROOTFS, OUT, COUNT, LAYERS = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
SITE = "usr/local/lib/python3.11/dist-packages"
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
PIP = ["-m", "pip", "--disable-pip-version-check"]
TELL = """
import contextlib, importlib, io, json, sys
def told(name):
    try:
        return getattr(importlib.import_module(name), "owner", "nothing in it")
    except ImportError as error:
        return type(error).__name__
modules = {name: told(name) for name in sys.argv[1:]}
def pip(*arguments):
    from pip._internal.cli.main import main
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main([*arguments, "--disable-pip-version-check"])
    return printed.getvalue().splitlines()
print(json.dumps({"modules": modules, "list": sorted(pip("list", "--format", "freeze")), "check": sorted(pip("check"))}))
"""
problems = []


def layers(layout, name=None):
    def read(digest):
        return json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())

    entries = json.loads((layout / "index.json").read_text())["manifests"]
    named = [entry for entry in entries if name in (None, entry.get("annotations", {}).get("org.opencontainers.image.ref.name"))]
    manifest = read(named[0]["digest"])
    while "manifests" in manifest:
        manifest = read(manifest["manifests"][0]["digest"])
    return [layout / "blobs" / layer["digest"].replace(":", "/") for layer in manifest["layers"]]


def apply(layer, root):
    """Extracts a layer over what is there, as a runtime does."""
    with tarfile.open(layer) as archive:
        for member in archive:
            path = root / member.name
            if path.name.startswith(".wh."):
                hidden = path.with_name(path.name[4:])
                shutil.rmtree(hidden) if hidden.is_dir() and not hidden.is_symlink() else hidden.unlink(missing_ok=True)
                continue
            if not member.isdir() and path.is_symlink():
                path.unlink()
            archive.extract(member, root, filter="fully_trusted")


class Root:
    """A root file system: Debian, and over it these layers."""

    def __init__(self, place, found):
        self.place = place
        for name in ("upper", "work", "root"):
            (place / name).mkdir(parents=True)
        for layer in found:
            apply(layer, place / "upper")

    def __enter__(self):
        options = f"lowerdir={ROOTFS},upperdir={self.place}/upper,workdir={self.place}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, self.place / "root"], check=True)
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", self.place / "root"], check=True)
        shutil.rmtree(self.place)

    def run(self, *command, check=True):
        chroot = shutil.which("chroot") or "/usr/sbin/chroot"
        done = subprocess.run([chroot, self.place / "root", *command], env=ENVIRONMENT, capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr[-600:]}")
        return done.stdout

    def state(self, python, modules):
        return json.loads(self.run(python, "-c", TELL, *modules))

    def files(self):
        skipped = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")
        found = []
        for place in (SITE, "usr/local/bin", "usr/local/share"):
            for directory, _, names in os.walk(self.place / "root" / place):
                inner = pathlib.Path(directory).relative_to(self.place / "root")
                if inner.name != "__pycache__":
                    found += [str(inner / name) for name in names if name not in skipped]
                    # pip removes even the directory of scripts where its last one goes.
                    found += [str(inner)] if not os.listdir(directory) and str(inner) != place else []
        return sorted(found)


def pip_made(root, made, wheels):
    """Lets pip make of a base what the image has; returns the interpreter of its environment."""
    change = ["--root-user-action", "ignore", "--break-system-packages", "--quiet"]
    if made["remove"]:
        root.run("/usr/bin/python3", *PIP, "uninstall", *change, "--yes", *made["remove"])
    python = "/usr/bin/python3"
    if made["environment"] == "overlay":
        root.run("/usr/bin/python3", "-m", "venv", "--system-site-packages", "--without-pip", "/opt/peer")
        python = "/opt/peer/bin/python"
    if wheels:
        (root.place / "root/wheels").mkdir()
        for name in wheels:
            shutil.copy(OUT / "wheels" / name, root.place / "root/wheels")
        how = ["--no-deps", "--no-index", "--no-compile", "--force-reinstall"]
        root.run(python, *PIP, "install", *change, *how, *(f"/wheels/{name}" for name in wheels))
    return python


def modules_of(made, names):
    return sorted({module for name in names for module in made["wheels"][name]["modules"]})


def states(root, python, modules, locked):
    """The state of an environment, and the one after pip uninstalled what the image brought."""
    found = root.state(python, modules)
    found["files"] = root.files() if python == "/usr/bin/python3" else []
    if locked:
        change = ["--root-user-action", "ignore", "--break-system-packages", "--quiet", "--yes"]
        root.run(python, *PIP, "uninstall", *change, *(package["name"] for package in locked))
    found["modules after pip uninstall"] = root.state(python, modules)["modules"]
    found["files after pip uninstall"] = root.files() if python == "/usr/bin/python3" else []
    return found


def built(number, made, said):
    """An image beside what pip makes of its base with the same wheels."""
    place = OUT / str(number)
    lock = tomllib.loads((place / "kiln.lock").read_text())
    locked = [package for image in lock["image"] for package in image.get("packages", [])]
    names = [f"{package['name']} {package['version']}" for package in locked]
    wheels = [made["wheels"][name]["file"] for name in names]
    modules = modules_of(made, [f"{name} {version}" for name, version in made["held"].items()] + names)
    found = layers(place / "out")
    with Root(place / "peer", found[LAYERS : LAYERS + 1]) as pip:
        before = pip.state("/usr/bin/python3", modules)
        expected = states(pip, pip_made(pip, made, wheels), modules, locked)
    with Root(place / "own", found[LAYERS:]) as kiln:
        own = states(kiln, "/opt/venv/bin/python" if made["environment"] == "overlay" else "/usr/bin/python3", modules, locked)
    for key, value in expected.items():
        if isinstance(value, dict):
            value, own[key] = ({name: one[name] for name in one if own[key][name] != value[name]} for one in (value, own[key]))
        if own[key] != value:
            problems.append(f"case {number}: {key}: kiln's {own[key]}, pip's {value}")
    for line in set(expected["check"]) - set(before["check"]):
        if line.split()[0] in made["held"] and f" {line.split()[0]} " not in said:
            problems.append(f"case {number}: kiln did not tell: {line}")
    return "built"


def refused(number, made, said):
    """A refusal about modules must have its reason in what pip makes."""
    if "brings" not in said:
        return "no versions" if "resolved" in said or "contradict" in said else "other: " + said.splitlines()[0]
    place = OUT / str(number)
    held = [f"{name} {version}" for name, version in made["held"].items() if name not in made["remove"]]
    error = next(line for line in said.splitlines() if line.startswith("error"))
    file = error.split("`")[1]
    name = next(name for name, wheel in made["wheels"].items() if wheel["file"] == file)
    modules = modules_of(made, [*held, name])
    with Root(place / "peer", layers(OUT / "bases/layout", f"base{number}")[LAYERS:]) as pip:
        before = pip.state("/usr/bin/python3", modules)["modules"]
        after = pip.state(pip_made(pip, made, [file]), modules)["modules"]
    own = made["wheels"][name]["modules"]
    lost = [module for module in modules if module not in own and before[module] != after[module]]
    hidden = [module for module in own if after[module] != name or before[module] not in (name, "ModuleNotFoundError")]
    if not lost and not hidden:
        problems.append(f"case {number}: refused without a reason: {said.splitlines()[0]}: {before} {after}")
    return "refused for modules"


def outcome(number):
    place = OUT / str(number)
    made, said = json.loads((place / "case.json").read_text()), (place / "said.txt").read_text()
    return (built if (place / "out").exists() else refused)(number, made, said)


def main():
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        outcomes = collections.Counter(threads.map(outcome, range(COUNT)))
    print(json.dumps({"outcomes": outcomes, "problems": problems}, indent=1))


main()
