"""Compares what kiln writes for uv with what pip reads, over made-up requirements files.

    pip.py KILN WORK SEED COUNT

WORK/pip holds pip and packaging. uv is a script here that keeps what it is given and resolves nothing.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote

KILN, WORK, SEED, COUNT = sys.argv[1], os.path.abspath(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
sys.path.insert(0, os.path.join(WORK, "pip"))

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from pip._internal.network.session import PipSession
from pip._internal.req.constructors import install_req_from_parsed_requirement
from pip._internal.req.req_file import parse_requirements

PROJECT = os.path.join(WORK, "project")
SEEN = os.path.join(WORK, "seen")
STACK = """[stack]
name = "t"
[target]
platforms = ["linux/amd64"]
python = "3.11"
[images.a]
from = "scratch"
base-facts = { libc = { family = "glibc", version = "2.36" }, interpreters = [{ path = "/usr/bin/python3.11", version = "3.11.2" }] }
requirements = "requirements.txt"
"""
MARKERS = {
    "implementation_name": "cpython", "implementation_version": "3.11.2", "os_name": "posix",
    "platform_machine": "x86_64", "platform_python_implementation": "CPython", "platform_release": "",
    "platform_system": "Linux", "platform_version": "", "python_full_version": "3.11.2", "python_version": "3.11",
    "sys_platform": "linux", "extra": "",
}
WHEELS = ["w/lib_a-1.0-py3-none-any.whl", "deep/lib_b-2.0+cu130-py3-none-any.whl", "lib_c-1-py3-none-any.whl"]


def uv():
    os.makedirs(os.path.join(WORK, "bin"), exist_ok=True)
    path = os.path.join(WORK, "bin", "uv")
    with open(path, "w") as file:
        file.write(f"#!/bin/sh\nPATH=/bin:/usr/bin\ncp requirements.txt constraints.txt {SEEN} 2>/dev/null\ntouch {SEEN}/asked\nexit 2\n")
    os.chmod(path, 0o755)


class Writer:
    """Writes one file and those that it includes."""

    def __init__(self, random):
        self.random = random
        self.files = {}
        # Whether something stands in it that kiln refuses and pip takes.
        self.refusable = False

    def pick(self, *choices):
        return self.random.choice(choices)

    def name(self):
        return self.pick("six", "Torch", "ruamel.yaml", "a_b-c", "zope.interface", "x9", "typing_extensions")

    def space(self):
        return self.pick("", "", " ", "  ")

    def specifiers(self):
        one = lambda: self.pick("==", ">=", "<=", "!=", "<", ">", "~=", "===") + self.space() + self.pick(
            "1.0", "2.3.4", "1.0a1", "2024.1", "1.0.post1", "0!1.2", "v1.5", "1.0.dev3", "1.0-alpha.1")
        text = ",".join(one() + self.space() for _ in range(self.pick(0, 1, 1, 2, 3)))
        if self.pick(*range(12)) == 0:
            text = self.pick("==1.*", "!=2.4.*", "==1.0+cu130")
        if "===" in text and ("0!" in text or "v" in text or "-alpha" in text):
            # Compared as text, such a version fits no package.
            self.refusable = True
        if re.search(r"===\s*[^\s,]+,", text):
            # pip takes the comma for a part of the version first, and may or may not fail later.
            self.refusable = True
        return f"({text})" if text and self.pick(*range(10)) == 0 else text

    def extras(self):
        return self.pick("", "", "", "[x]", "[x,y]", "[ X , y_z ]")

    def marker(self):
        if self.random.random() < 0.6:
            return ""
        one = lambda: self.pick(
            "python_version >= '3.8'", 'python_version<"3.9"', "sys_platform == 'linux'", "sys_platform != 'win32'",
            "platform_machine == 'aarch64'", "python_full_version >= '3.11.1'", "os_name == \"posix\"",
            "'linux' in sys_platform", "implementation_name == 'cpython'", "platform_system == 'Darwin'",
            "python_version not in '3.7'", "extra == 'x'")
        text = one()
        for _ in range(self.pick(0, 0, 1, 2)):
            text = f"{text} {self.pick('and', 'or')} {self.pick(one(), '(' + one() + ' or ' + one() + ')')}"
        return self.space() + ";" + self.space() + text

    def hashes(self):
        if self.random.random() < 0.7:
            return ""
        text = ""
        for _ in range(self.pick(1, 1, 2, 3)):
            digest = "".join(self.random.choice("0123456789abcdef") for _ in range(64))
            text += self.pick(" ", " \\\n    ", "  ") + self.pick("--hash=", "--hash ", "--has=") + f"sha256:{digest}"
        return text

    def named(self):
        return self.name() + self.space() + self.extras() + self.space() + self.specifiers() + self.marker() + self.hashes()

    def located(self, directory):
        wheel = self.random.choice(WHEELS)
        name = os.path.basename(wheel).split("-")[0]
        # pip takes bare paths from the directory that it runs in, so that only absolute ones mean the same to both.
        path = os.path.join(PROJECT, wheel)
        marker = self.marker()
        if marker and not marker.startswith(" "):
            marker = " " + marker
        if marker:
            marker = marker.replace(";", "; ", 1)
        text = self.pick(
            path, f"file://{path}", f"{name} @ file://{path}", f"{name}{self.extras()}@ file://{path}", f"{path}[x]",
            f"https://example.org/{os.path.basename(wheel)}",
            f"{name} @ https://example.org/x%20y/{os.path.basename(wheel)}")
        return text + marker + self.hashes()

    def option(self):
        return self.pick("--pre", "--prefer-binary", "--only-binary :all:", "--only-binary=six", "--extra-index-url https://example.org/more",
                         "--extra-index https://example.org/more", "-f https://example.org/page", "--find-links=https://example.org/page",
                         "-i https://example.org/simple", "--index-url 'https://example.org/simple'")

    def refused(self):
        self.refusable = True
        return self.pick("-e .", ".", "./src", "git+https://example.org/a#egg=a", "a @ git+https://example.org/a",
                         "https://example.org/a-1.tar.gz", "a @ file:///nowhere/dir", "--no-binary six", "--trusted-host example.org",
                         "six --pre", "--pre six", "-r none.txt -r none.txt", "--hash=sha256:00", "six --config-settings=a=b",
                         "six --hash=sha512:" + "0" * 128, "six==${HOME}", "--use-feature=fast-deps", "a[x]>=1,", "six>=1 --no-index")

    def broken(self):
        self.refusable = True
        return self.pick("six=1", "=six", "six>>1", "[x]", "six[x", "--bogus", "-x", "--pre=1", "six; nonsense", "six ; a == 'b'",
                         "--index-url", "six --hash=abc", "six --hash=md5:00", "-r missing.txt", "six 1.0", "six @", "six, seven",
                         "six>=1;", "six ; python_version", "'six'", "six\t--pre", "-", "a b c", "six==")

    def decoration(self, line):
        """Comments, continuation and white space that change nothing, or what pip makes of them."""
        choice = self.pick(*range(14))
        if choice == 0:
            return line + "  # a comment"
        if choice == 1:
            return "\t" + line + " "
        if choice == 2 and " " in line and "#" not in line:
            at = line.index(" ")
            return line[:at] + " \\\n" + line[at:]
        if choice == 3:
            return line + " \\\n# a comment in the middle"
        if choice == 4:
            return "# \u00e9 " + line + "\\"
        if choice == 5:
            return line + self.pick("\r", "\r\n", "\x0c", "\u2028")
        if choice == 6:
            return line + "#no comment"
        return line

    def write(self, path, depth=0):
        lines = []
        if self.pick(*range(20)) == 0:
            lines.append("# -*- coding: utf-8 -*-")
        for _ in range(self.random.randrange(1, 8)):
            choice = self.random.random()
            if choice < 0.55:
                line = self.named()
            elif choice < 0.68:
                line = self.located(os.path.dirname(path))
            elif choice < 0.78:
                line = self.option()
            elif choice < 0.9 and depth < 3:
                nested = self.pick(f"n{depth}.txt", f"deep/n{depth}.txt", f"./n{depth}-b.txt")
                nested_path = os.path.normpath(os.path.join(os.path.dirname(path), nested))
                self.write(nested_path, depth + 1)
                line = self.pick("-r ", "-c ", "--requirement=", "--constraint ") + nested
            elif choice < 0.94:
                line = self.refused()
            elif choice < 0.97:
                line = self.broken()
            else:
                line = self.pick("", "# nothing", "   ")
            decorated = self.decoration(line)
            if decorated != line and (decorated.endswith(("#no comment", "\\")) or "\\\n" in decorated):
                # It may become another line, of which kiln refuses what pip ignores.
                self.refusable = True
            lines.append(decorated)
        text = "\n".join(lines)
        encoding = self.pick("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32")
        if "# -*- coding" in text:
            encoding = "utf-8"
        self.files[path] = text.encode(encoding)


def of_pip():
    """What pip reads: requirements and constraints, or nothing where it refuses."""
    found = {"requirements": [], "constraints": []}
    try:
        os.chdir(PROJECT)
        for parsed in parse_requirements(os.path.join(PROJECT, "requirements.txt"), PipSession()):
            install = install_req_from_parsed_requirement(parsed)
            if parsed.constraint and install.extras:
                # As pip's resolver does.
                raise ValueError("Constraints cannot have extras")
            marker = Marker(str(install.markers)) if install.markers else None
            if marker is not None and not marker.evaluate(MARKERS):
                continue
            url = install.link.url_without_fragment if install.link else None
            hashes = sorted(digest for digests in (parsed.options or {}).get("hashes", {}).values() for digest in digests)
            if install.req is None:
                raise ValueError("a requirement without a name")
            specifier = "" if url else str(SpecifierSet(str(install.req.specifier)))
            found["constraints" if parsed.constraint else "requirements"].append(
                [canonicalize_name(install.req.name), sorted({canonicalize_name(extra) for extra in install.extras | set(install.req.extras)}),
                 canonical(specifier), url and unquote(url), str(marker or ""), hashes])
    except (Exception, SystemExit) as error:
        return str(error) or repr(error), None
    return None, found


def canonical(specifiers):
    return sorted((one.operator, str(one.version) if one.operator == "===" or one.version.endswith(".*") else str(version(one.version)))
                  for one in SpecifierSet(specifiers))


def version(text):
    from packaging.version import Version
    return Version(text)


def of_kiln():
    shutil.rmtree(SEEN, ignore_errors=True)
    os.makedirs(SEEN)
    run = subprocess.run([KILN, "--store", os.path.join(WORK, "store"), "lock"], cwd=PROJECT, capture_output=True, text=True,
                         env={"PATH": os.path.join(WORK, "bin"), "HOME": WORK})
    if run.returncode == 0:
        return None, {"requirements": [], "constraints": []}
    if not os.path.exists(os.path.join(SEEN, "asked")):
        return run.stderr, None
    found = {}
    for kind in ("requirements", "constraints"):
        path = os.path.join(SEEN, kind + ".txt")
        found[kind] = []
        for line in open(path).read().splitlines() if os.path.exists(path) else []:
            text, *hashes = line.split(" --hash=sha256:")
            read = Requirement(text)
            found[kind].append([canonicalize_name(read.name), sorted({canonicalize_name(extra) for extra in read.extras}),
                                canonical(str(read.specifier)), read.url and unquote(read.url), str(read.marker or ""), sorted(hashes)])
    return None, found


def main():
    uv()
    os.makedirs(PROJECT, exist_ok=True)
    counts = {"the same": 0, "refused by both": 0, "refused by kiln": 0}
    wrong = []
    for at in range(COUNT):
        shutil.rmtree(PROJECT)
        writer = Writer(random.Random(f"{SEED} {at}"))
        writer.write("requirements.txt")
        for path, content in {**writer.files, **{wheel: b"" for wheel in WHEELS}, "kiln.toml": STACK.encode()}.items():
            path = os.path.join(PROJECT, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
        (pip_error, pip), (kiln_error, kiln) = of_pip(), of_kiln()
        if pip is None and kiln is None:
            counts["refused by both"] += 1
        elif kiln is None and writer.refusable:
            counts["refused by kiln"] += 1
        elif pip == kiln:
            counts["the same"] += 1
        else:
            wrong.append({"seed": f"{SEED} {at}", "files": {path: repr(content) for path, content in writer.files.items()},
                          "pip": pip or pip_error, "kiln": kiln or kiln_error})
    print(json.dumps(counts))
    if wrong:
        print(json.dumps(wrong[:3], indent=1))
        sys.exit(f"{len(wrong)} of {COUNT} files are read in another way than by pip")
    if min(counts.values()) < COUNT / 50:
        sys.exit("the files are too much alike to say anything")


main()
