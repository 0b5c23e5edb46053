"""Writes what pip and `packaging` read in other tools' test data, and in variations of it.

    peer.py WORK SEED VARIATIONS SDIST...

WORK/pip holds pip and packaging; the sdists are downloaded to WORK/sdists. Every text of their tests is taken for a
requirements file, a marker, a file name of a wheel, a lock or a project. WORK/cases.jsonl gets one JSON object for each:
`kind`, `text`, `origin`, and `peer`: the reading, or null where the peer refuses (`why`).
"""

import ast
import contextlib
import json
import logging
import os
import random
import re
import sys
import tarfile
import textwrap
import tomllib
import warnings
from urllib.parse import unquote

WORK, SEED, VARIATIONS, SDISTS = os.path.abspath(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
sys.path.insert(0, os.path.join(WORK, "pip"))
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

from packaging.dependency_groups import resolve_dependency_groups
from packaging.markers import Marker
from packaging.pylock import PackageArchive, PackageWheel, Pylock
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version
from pip._internal.commands import create_command
from pip._internal.exceptions import InstallationError
from pip._internal.index.collector import LinkCollector
from pip._internal.index.package_finder import PackageFinder
from pip._internal.models.search_scope import SearchScope
from pip._internal.models.selection_prefs import SelectionPreferences
from pip._internal.network.session import PipSession
from pip._internal.req import req_file
from pip._internal.req.constructors import install_req_from_parsed_requirement

# As `foreign_data.rs` has them: Python in both spellings, and the machine.
ENVIRONMENTS = [("3.8", "3.8.20", "x86_64"), ("3.11", "3.11.2", "x86_64"), ("3.11", "3.11.2", "aarch64"),
                ("3.12", "3.12.0", "x86_64"), ("3.13", "3.13.7", "x86_64")]
PROJECT = "/"
NOWHERE = open(os.devnull, "w")


def environment(python, full, machine):
    return {"implementation_name": "cpython", "implementation_version": full, "os_name": "posix", "platform_machine": machine,
            "platform_python_implementation": "CPython", "platform_release": "", "platform_system": "Linux",
            "platform_version": "", "python_full_version": full, "python_version": python, "sys_platform": "linux"}


# --- test data ---


def download(name):
    """The sdist of a package, by pip's own client with its settings; nothing of it runs."""
    command = create_command("download")
    requirement, _, version = name.partition("==")
    with command.main_context():
        options, _ = command.parse_args([name, "--no-deps", "--no-binary", requirement])
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        link = next(one.link for one in finder.find_all_candidates(requirement) if str(one.version) == version)
        target = os.path.join(WORK, "sdists", link.filename)
        if not os.path.exists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target + ".part", "wb") as file:
                file.write(session.get(link.url_without_fragment).content)
            os.rename(target + ".part", target)
        return target


def python_texts(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield textwrap.dedent(node.value).strip("\n") if "\n" in node.value else node.value


ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\\": "\\", '"': '"', "'": "'"}


def rust_texts(source):
    raw = r'r(?P<hashes>#+)"(?P<raw>.*?)"(?P=hashes)'
    plain = r'(?<![\w\'\\])"(?P<plain>(?:[^"\\]|\\.)*)"'
    for found in re.finditer(f"{raw}|{plain}", source, re.DOTALL):
        text = found["raw"]
        if text is None:
            text = re.sub(r"\\\n\s*", "", found["plain"])
            text = re.sub(r"\\(.)", lambda escape: ESCAPES.get(escape[1], escape[0]), text, flags=re.DOTALL)
        yield textwrap.dedent(text).strip("\n") if "\n" in text else text


def texts(archive):
    """Texts of the tests in an sdist, with the name of the file that each is from."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.split("/", 1)[-1]
            tests = re.search(r"(^|/)(tests?|test-data)/", name) or re.search(r"uv-(pep508|pep440|requirements-txt|distribution|workspace|normalize)[\w-]*/src/", name)
            if not member.isfile() or not tests or not name.endswith((".py", ".rs", ".txt", ".toml", ".in")):
                continue
            source = tar.extractfile(member).read().decode("utf-8", "replace")
            found = {".py": python_texts, ".rs": rust_texts}.get(os.path.splitext(name)[1], lambda text: [text])
            for text in found(source):
                if text.strip() and len(text) < 100_000 and "\0" not in text:
                    yield name, text


# --- readings of the peers ---


class Requirements:
    """Requirements files that include nothing but themselves."""

    def __init__(self):
        self.content = {}
        req_file.get_file_content = self.get
        self.session = PipSession()

    def get(self, path, *_, **__):
        path = os.path.normpath(path)
        if path not in self.content:
            raise InstallationError(f"no {path}")
        return path, self.content[path]

    def read(self, text):
        self.content = {PROJECT + "requirements.txt": text}
        found = {"requirements": [], "constraints": []}
        finder = PackageFinder.create(LinkCollector(self.session, SearchScope.create([], [], False)), SelectionPreferences(True))
        for parsed in req_file.parse_requirements(PROJECT + "requirements.txt", self.session, finder):
            install = install_req_from_parsed_requirement(parsed)
            if parsed.is_editable or install.req is None:
                raise ValueError("a source")
            if parsed.constraint and install.extras:
                raise ValueError("Constraints cannot have extras")
            hashes = (parsed.options or {}).get("hashes", {}).get("sha256", [])
            if install.link and install.link.hash_name == "sha256":
                hashes = [install.link.hash]
            requirement = one(install.req, install.link, install.markers, hashes)
            requirement["extras"] = sorted({canonicalize_name(extra) for extra in install.extras | set(install.req.extras)})
            found["constraints" if parsed.constraint else "requirements"].append(requirement)
        return {**found, "indexes": [spelled(index) for index in finder.index_urls],
                "links": [spelled(link).removeprefix("file://") for link in finder.find_links]}


def one(requirement, link, marker, hashes):
    url = link.url_without_fragment if link else requirement.url
    if not link and url:
        url, _, fragment = url.partition("#")
        hashes = [fragment.removeprefix("sha256=")] if fragment.startswith("sha256=") else []
    return {"name": canonicalize_name(requirement.name), "extras": sorted(map(canonicalize_name, requirement.extras)),
            "versions": [] if url else versions(requirement.specifier), "url": url and unquote(spelled(url)),
            "holds": holds(marker), "hashes": sorted(digest.lower() for digest in hashes)}


def spelled(url):
    """A URL with its host in lower case; of a path, that of the file."""
    if "://" not in url:
        return "file://" + os.path.normpath(os.path.join(PROJECT, url.removeprefix("file:")))
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.lower() if host.isascii() else host.encode('idna').decode()}{slash}{path}"


def versions(specifiers):
    """Clauses, in one spelling."""
    texts = []
    for clause in SpecifierSet(str(specifiers)):
        version = clause.version.strip()
        if clause.operator != "===":
            version = f"{Version(version[:-2])}.*" if version.endswith(".*") else str(Version(version))
        if clause.operator not in ("~=", "===") and re.fullmatch(r"[\d.]+", version):
            version = re.sub(r"(\.0)+$", "", version)
        texts.append(f"{clause.operator}{version}")
    return sorted(texts)


def holds(marker):
    """Values of a marker in all environments, without extras."""
    if marker is None:
        return [True] * len(ENVIRONMENTS)
    marker = Marker(str(marker))
    return [marker.evaluate({**environment(*one), "extra": ""}) for one in ENVIRONMENTS]


def wheel(file):
    name, version, build, tags = parse_wheel_filename(file)
    return {"name": name, "version": str(version), "tags": sorted(map(str, tags))}


def tags(python, machine):
    platforms = []
    for minor in range(36, 4, -1):
        old = {17: "2014", 12: "2010", 5: "1"}.get(minor)
        if machine == "x86_64" or minor >= 17:
            platforms += [f"manylinux_2_{minor}_{machine}"] + ([f"manylinux{old}_{machine}"] if old else [])
    platforms.append(f"linux_{machine}")
    version = tuple(map(int, python.split(".")))
    interpreter = f"cp{version[0]}{version[1]}"
    return [*cpython_tags(version, [interpreter], platforms), *compatible_tags(version, interpreter, platforms)]


TAGS = {(python, machine): tags(python, machine) for python, _, machine in ENVIRONMENTS}


def lock(text, choice):
    """The wheel of each package, by environment; null where nothing can be installed."""
    parsed = Pylock.from_dict(tomllib.loads(text))
    found = []
    for python, full, machine in ENVIRONMENTS:
        try:
            selected = list(parsed.select(environment=environment(python, full, machine), tags=TAGS[python, machine],
                                          extras=choice["extras"], dependency_groups=choice["groups"]))
            selected = [(package, best(package, file, TAGS[python, machine])) for package, file in selected]
            for package, file in selected:
                if not isinstance(file, PackageWheel) and not (isinstance(file, PackageArchive) and file_name(file).endswith(".whl")):
                    raise ValueError(f"{package.name} is a source")
                if parse_wheel_filename(file_name(file))[3].isdisjoint(TAGS[python, machine]):
                    raise ValueError(f"no wheel of {package.name} fits")
            found.append(sorted([package.name, file_name(file)] for package, file in selected))
        except Exception as error:
            found.append(None)
    return found


def best(package, file, tags):
    """Of the wheels whose tags fit equally well the one of the highest build (PEP 427), which `packaging` does not look at,
    and of the same build the one that lies here."""
    if not isinstance(file, PackageWheel):
        return file
    ranks = {tag: rank for rank, tag in enumerate(tags)}

    def order(wheel):
        _, _, build, own = parse_wheel_filename(wheel.filename)
        fit = min((ranks[tag] for tag in own if tag in ranks), default=len(ranks))
        return fit, -build[0] if build else 0, not build, "://" in (wheel.url or "") and not wheel.url.startswith("file:")

    return min(package.wheels, key=order)


def file_name(file):
    return getattr(file, "filename", None) or unquote((file.path or file.url).split("#")[0].split("?")[0].rsplit("/", 1)[-1])


def groups(text):
    """Names of a project's groups."""
    try:
        return list(tomllib.loads(text).get("dependency-groups", {}))
    except (tomllib.TOMLDecodeError, TypeError, AttributeError):
        return []


def project(text, groups):
    """Requirements of a project and of each group."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # kiln reads TOML 1.1, too.
        raise LookupError from error
    own = table.get("project", {})
    if not isinstance(own.get("name"), str) or not isinstance(own.get("dependencies", []), list) or table.get("tool", {}).get("uv"):
        # What is uv's has no reading here.
        raise LookupError
    own = canonicalize_name(table["project"]["name"])
    every = [Requirement(text) for text in table["project"].get("dependencies", [])]
    if any(canonicalize_name(requirement.name) == own for requirement in every):
        raise LookupError
    return {"requirements": [one(requirement, None, requirement.marker, []) for requirement in every],
            "groups": {name: [one(requirement, None, requirement.marker, []) for requirement in
                              map(Requirement, resolve_dependency_groups(table["dependency-groups"], name))]
                       for name in groups}}


def marker(text):
    return holds(Marker(text))


# --- variations ---


class Variations:
    """New texts from those that there are, and locks and markers made up."""

    def __init__(self, seed, requirements, markers, locks):
        self.random = random.Random(seed)
        self.requirements, self.markers, self.locks = requirements, markers, locks

    def pick(self, *choices):
        return self.random.choice(choices)

    def version(self):
        return self.pick("3", "3.8", "3.11", "3.11.2", "3.11.0", "3.12", "3.13.7", "3.9.*", "3.11.*", "3.12.*", "3.11.2.*", "2.7", "3.11rc1", "3.12.0a1",
                         "3.12.0.dev1", "3.11.2+local", "3.10.0.post1", "0!3.11", "1!3.0", "v3.11", "03.011", "3.x", "", " 3.11", "3.11,3.12", "3.8 3.11", "3.11.2 3.12")

    def comparison(self):
        operator = self.pick("==", "!=", ">=", "<=", ">", "<", "~=", "===", "in", "not in")
        text, value = self.pick(
            (self.pick("python_version", "python_full_version", "implementation_version"), self.version()),
            (self.pick("python_version", "python_full_version"), self.version()),
            (self.pick("sys_platform", "os_name", "platform_system", "platform_machine", "implementation_name", "platform_python_implementation",
                       "os.name", "sys.platform", "platform.machine", "python_implementation"),
             self.pick("linux", "Linux", "win32", "darwin", "posix", "nt", "x86_64", "aarch64", "cpython", "CPython", "linux2", "x86_64 aarch64", "lin", "")),
            (self.pick("platform_release", "platform_version", "platform.version"), self.pick("", "6.1", "#1 SMP")),
            ("extra", self.pick("x", "X_y", "", "a b")))
        quoted = self.pick("'", '"')
        value = f"{quoted}{value}{quoted}"
        one, other = (text, value) if self.random.random() < 0.75 else (value, text)
        space = self.pick(" ", " ", "", "  ", "\t") if operator[0] in "=!<>~" else " "
        return f"{one}{space}{operator}{space}{other}"

    def marker(self, depth=0):
        choice = self.random.random()
        if depth > 2 or choice < 0.5:
            return self.comparison()
        if choice < 0.65:
            return f"({self.marker(depth + 1)})"
        return f"{self.marker(depth + 1)} {self.pick('and', 'or')} {self.marker(depth + 1)}"

    def changed(self, text):
        """A text with a few characters changed, as a slip of the hand does."""
        for _ in range(self.pick(1, 1, 2)):
            at = self.random.randrange(len(text) + 1)
            piece = self.pick("", "", " ", "  ", "\t", "#", " #", ";", "; ", ",", "==", ".*", "[", "]", "(", ")", "@", "'", '"', "\\", "\\\n", "\n", "-", "--", "=", "!",
                              "~=", "$", "${X}", "%20", "é", "0", "a", ":", "/", " -r ", " --hash=sha256:" + "0" * 64, "\x0b", "\xa0", "+", "_", ".")
            text = text[:at] + piece + text[min(len(text), at + self.pick(0, 0, 1, 2)):]
        return text

    def joined(self):
        one, other = self.random.choice(self.requirements), self.random.choice(self.requirements)
        return one + self.pick("\n", " ; ", " ", "\\\n", ",", " # ", "\n\n", "\r\n") + other

    def file(self):
        return self.changed(self.random.choice(self.requirements)) if self.random.random() < 0.7 else self.joined()

    def seldom(self):
        return self.random.random() < 0.03

    def wheel_entry(self, name, version):
        tag = self.pick("py3-none-any", "py3-none-any", "cp311-cp311-manylinux_2_17_x86_64", "cp311-abi3-manylinux_2_28_x86_64",
                        "cp38-abi3-manylinux2014_x86_64", "cp312-cp312-manylinux_2_17_aarch64", "py2.py3-none-any", "cp311-none-win32",
                        "cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64")
        file = f"{name.replace('-', '_')}-{version}-{self.pick('', '', '', '1-', '2b-')}{tag}.whl"
        place = self.pick("url", "url", "path")
        entry = {place: self.pick(f"https://example.org/x/{file}", f"https://example.org/{file}?a=b#c", f"file:///w/{file}") if place == "url" else f"w/{file}",
                 "hashes": {"sha256": self.pick("0" * 64, "AB" * 32)}}
        if self.seldom():
            entry["name"] = self.pick("other-1.0-py3-none-any.whl", file[:-4], "")
        elif self.pick(0, 0, 1):
            entry["name"] = file
        if self.seldom():
            entry["hashes"] = self.pick({}, {"md5": "0" * 32}, {"sha256": "00"})
        if self.pick(0, 1):
            entry["size"] = self.pick("5", -1) if self.seldom() else self.pick(0, 5)
        if self.seldom():
            del entry[self.pick(place, "hashes")]
        return entry

    def package(self):
        name = self.pick("B_c", "a.", "") if self.seldom() else self.pick("a", "b-c", "d", "e", "f", "g")
        version = self.pick("1.0", "1.0", "2.0.post1", "1.0+local", "1!2")
        package = {"name": name}
        if self.pick(0, 1, 1):
            package["version"] = self.pick("1.00", "x", "3") if self.seldom() else version
        if self.pick(0, 1):
            package["marker"] = self.pick(
                "'dev' in dependency_groups", "'gpu' in extras", "'gpu' not in extras and python_version >= '3.11'", "'Gpu' in extras",
                "('dev' in dependency_groups or 'gpu' in extras) and sys_platform == 'linux'", "'dev' in dependency_groups and 'gpu' in extras",
                '"gpu"in extras', "extra == 'gpu'", "extras == 'gpu'", "'default' in dependency_groups", self.marker())
        if self.seldom():
            package["requires-python"] = self.pick(">=3.8", ">=3.12", "~=3.11", "==3.11.*", "x")
        package["wheels"] = [self.wheel_entry(name, version) for _ in range(0 if self.seldom() else self.pick(1, 1, 2, 3))]
        if self.pick(*range(6)) == 0:
            package["sdist"] = {"url": f"https://example.org/{name.replace('-', '_')}-{version}.tar.gz", "hashes": {"sha256": "0" * 64}}
        if self.seldom():
            package["archive"] = self.pick(self.wheel_entry(name, version), {"url": "https://example.org/a-1.tar.gz", "hashes": {"sha256": "0" * 64}})
        if self.seldom():
            package.update(self.pick({"vcs": {"type": "git", "url": "https://example.org/a", "commit-id": "0" * 40}}, {"directory": {"path": "."}}))
        if self.seldom():
            del package[self.pick(*package)]
        return package

    def lock(self):
        table = {"lock-version": self.pick("1", "2.0", "1.0.0", "x", "1!1.0") if self.seldom() else self.pick("1.0", "1.0", "1.1"), "created-by": "t"}
        if self.seldom():
            del table[self.pick("lock-version", "created-by")]
        if self.pick(0, 0, 0, 1):
            table["requires-python"] = "x" if self.seldom() else self.pick(">=3.8", ">=3.11", "<3.13", "~=3.11", ">=3.11.0")
        if self.pick(0, 0, 0, 1):
            table["environments"] = [self.pick("sys_platform == 'linux'", "python_version >= '3.11'", "sys_platform == 'win32'", self.marker())
                                     for _ in range(0 if self.seldom() else self.pick(1, 1, 2))]
        if self.pick(0, 1, 1, 1):
            table["extras"] = self.pick(["Gpu"], []) if self.seldom() else self.pick(["gpu"], ["gpu", "x"])
        if self.pick(0, 1, 1, 1):
            table["dependency-groups"] = self.pick(["Dev"], ["dev"], ["dev", "default"])
        if self.pick(0, 1):
            table["default-groups"] = self.pick(["default"], ["dev"], [], ["none"])
        if not self.seldom():
            table["packages"] = [self.package() for _ in range(self.pick(0, 1, 2, 2, 3))]
        return "\n".join(f"{key} = {inline(value)}" for key, value in table.items()) + "\n"


def inline(value):
    """A value as inline TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value)


# --- cases ---


def main():
    files = Requirements()
    peers = {"file": files.read, "marker": marker, "wheel": wheel, "project": project, "lock": lock}
    seen = set()
    kept = {kind: [] for kind in ("file", "marker", "lock")}
    out = open(os.path.join(WORK, "cases.jsonl"), "w")

    def case(kind, text, origin, **more):
        if (kind, text, json.dumps(more)) in seen:
            return
        seen.add((kind, text, json.dumps(more)))
        try:
            with contextlib.redirect_stdout(NOWHERE), contextlib.redirect_stderr(NOWHERE):
                reading, why = peers[kind](text, **more), None
        except LookupError:
            return
        except (Exception, SystemExit) as error:
            reading, why = None, f"{type(error).__name__}: {error}"[:300]
        if reading is not None and kind in kept and len(text) < 3000:
            kept[kind].append(text)
        out.write(json.dumps({"kind": kind, "text": text, "origin": origin, **more, "peer": reading, "why": why}) + "\n")

    os.chdir("/")
    for archive in SDISTS:
        archive = archive if os.path.exists(archive) else download(archive)
        for name, text in texts(archive):
            origin = f"{os.path.basename(archive)} {name}"
            if "lock-version" in text:
                for choice in ({"extras": [], "groups": None},):
                    case("lock", text, origin, choice=choice)
            if "[project]" in text or "[dependency-groups]" in text:
                case("project", text, origin, groups=groups(text))
            elif text.endswith(".whl") and "\n" not in text and "/" not in text:
                case("wheel", text, origin)
            if re.search(r"==|[<>~]=?|\bin\b", text) and not re.search(r"[\n\r]|^#", text) and len(text) < 300:
                case("marker", text, origin)
                # Clauses of versions, too, as a requirement has them.
                case("file", "a" + text, origin)
            if "\n[" not in text and not text.lstrip().startswith("["):
                case("file", text, origin)
    make = Variations(SEED, kept["file"], kept["marker"], kept["lock"])
    for at in range(VARIATIONS):
        case("file", make.file(), f"seed {SEED}")
        case("marker", make.marker(), f"seed {SEED}")
        case("lock", make.lock(), f"seed {SEED}", choice={"extras": make.pick([], [], ["gpu"], ["nope"]), "groups": make.pick(None, None, ["dev"], [], ["nope"])})
    out.close()


main()
