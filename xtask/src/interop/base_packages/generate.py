"""Generates bases and images over them: `generate.py OUT SEED COUNT`.

OUT/wheels holds two releases of every distribution of every case, OUT/bases a stack of bases whose site directories pip filled,
and OUT/N the stack of case N, with a file `case.json` that tells what it is made of.
"""

import base64
import hashlib
import json
import pathlib
import random
import subprocess
import sys
import zipfile

OUT, SEED, COUNT = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
PKGUTIL = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"
SITE = "usr/local/lib/python3.11/dist-packages"
KINDS = ["regular", "regular", "single", "namespace", "pkgutil", "empty", "into", "same", "data"]


def contents(kind, name, owner, first):
    """The files of a distribution, and the modules that it has."""
    text = f"owner = {owner!r}\n"
    module = name.replace("-", "_")
    made = {
        "regular": ({f"{module}/__init__.py": text, f"{module}/inner.py": text}, [module, f"{module}.inner"]),
        "data": ({f"{module}/__init__.py": text, f"{module}/data/x.txt": text}, [module]),
        "single": ({f"{module}.py": text}, [module]),
        "namespace": ({f"shared_names/{module}/__init__.py": text}, [f"shared_names.{module}"]),
        "pkgutil": ({"styled/__init__.py": PKGUTIL, f"styled/{module}.py": text}, [f"styled.{module}"]),
        "empty": ({"blank/__init__.py": "", f"blank/{module}/__init__.py": text}, [f"blank.{module}"]),
        "into": ({f"{first}/of_{module}.py": text}, [f"{first}.of_{module}"]),
        "same": ({f"{first}/__init__.py": text, f"{first}/same.py": text}, [first, f"{first}.same"]),
    }
    return made[kind]


def wheel(directory, name, version, kind, requires, first):
    owner = f"{name} {version}"
    files, modules = contents(kind, name, owner, first)
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    if kind in ("regular", "data"):
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\nrun-{name} = {name.replace('-', '_')}:print\n"
    if kind == "data":
        files[f"{name.replace('-', '_')}-{version}.data/data/share/{name}/{version}.txt"] = owner
    lines = "".join(f"Requires-Dist: {one}\n" for one in requires)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: cases\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

    def row(path, text):
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        return f"{path},sha256={digest},{len(text)}\n"

    files[f"{info}/RECORD"] = "".join(row(path, text) for path, text in files.items()) + f"{info}/RECORD,,\n"
    path = directory / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in files.items():
            archive.writestr(zipfile.ZipInfo(inner, (2020, 1, 1, 0, 0, 0)), text)
    return {"file": path.name, "modules": modules}


def case(number):
    chance = random.Random(SEED * 1000 + number)
    names = [f"c{number}-{letter}" for letter in "abcdefgh"]
    first = names[0].replace("-", "_")
    kinds = ["regular", *(chance.choice(KINDS) for _ in names[1:])]
    wheels = {}
    for at, name in enumerate(names):
        for version in ("1.0", "2.0"):
            below = [other for other in names[:at] if chance.random() < 0.25]
            requires = [other + chance.choice(["", ">=1", ">=1", "<2", ">=2"]) for other in below]
            wheels[f"{name} {version}"] = wheel(OUT / "wheels", name, version, kinds[at], requires, first)
    in_base = chance.sample(names[1:], chance.randint(2, 5)) + [names[0]]
    held = {name: chance.choice(["1.0", "1.0", "2.0"]) for name in sorted(in_base)}
    others = sorted(held)
    chosen = {key: [chance.choice(others)] if chance.random() < share else [] for key, share in (("replace", 0.35), ("remove", 0.4))}
    if chosen["remove"] == chosen["replace"]:
        chosen["remove"] = []
    packages = chance.sample([name for name in names if name not in held] or names, 1)
    packages += [name + ("==2.0" if chance.random() < 0.5 else "") for name in chosen["replace"]]
    environment = chance.choice(["overlay", "base"])
    return {"names": names, "wheels": wheels, "held": held, "packages": packages, "environment": environment, **chosen}


def stack(directory, text):
    directory.mkdir(parents=True, exist_ok=True)
    head = '[stack]\nname = "cases"\n\n[target]\nplatforms = ["linux/amd64"]\npython = "3.11"\n\n'
    (directory / "kiln.toml").write_text(head + text)


def main():
    (OUT / "wheels").mkdir(parents=True, exist_ok=True)
    bases = "[index]\n\n[images.debian]\nfrom = { debian = \"bookworm\", include = [\"python3\", \"python3-venv\", \"python3-pip\"] }\n"
    for number in range(COUNT):
        made = case(number)
        root = OUT / "bases" / f"root{number}"
        files = [OUT / "wheels" / made["wheels"][f"{name} {version}"]["file"] for name, version in made["held"].items()]
        # As pip does it on Debian; two packages with one file are installed one after the other.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--root", root, "--prefix", "/usr/local"]
        pip += ["--no-warn-script-location", "--root-user-action", "ignore", "--disable-pip-version-check", "--force-reinstall"]
        subprocess.run([*pip, "--ignore-installed", "--break-system-packages", *files], check=True)
        found = next(root.glob("usr/local/lib/python3*/*-packages"), None) or next(root.glob("usr/local/local/lib/python3*/*-packages"))
        if found != root / SITE:
            (root / SITE).parent.mkdir(parents=True, exist_ok=True)
            found.rename(root / SITE)
        bases += f'\n[images.base{number}]\nfrom = "debian"\ncopy = [{{ from = "root{number}/", to = "/" }}]\n'
        (OUT / str(number)).mkdir(exist_ok=True)
        (OUT / str(number) / "case.json").write_text(json.dumps(made, indent=1))
        lists = ", ".join(f"{key} = {json.dumps(made[key])}" for key in ("replace", "remove"))
        stack(
            OUT / str(number),
            f'[index]\nfind-links = ["../wheels"]\n\n[images.a]\nfrom = {{ oci = "base:base{number}" }}\n'
            f'packages = {json.dumps(made["packages"])}\npython = {{ environment = "{made["environment"]}", {lists} }}\n',
        )
    stack(OUT / "bases", bases)


main()
