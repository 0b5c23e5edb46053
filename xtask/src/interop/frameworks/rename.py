"""Makes a wheel that no index has out of one that an index has: another version, another name, other requirements.

rename.py WHEEL DIRECTORY NAME VERSION [OLD=NEW...]: requirements on OLD become requirements on NEW, without a version.
"""

import base64
import csv
import hashlib
import io
import sys
import zipfile

wheel, directory, name, version, *requirements = sys.argv[1:]
requirements = dict(pair.split("=", 1) for pair in requirements)
file = wheel.rsplit("/", 1)[1]
old_name, old_version, tags = file.removesuffix(".whl").split("-", 2)
old, new = f"{old_name}-{old_version}.dist-info", f"{name}-{version}.dist-info"
rows = []


def metadata(text):
    for line in text.splitlines():
        key, _, value = line.partition(": ")
        if key == "Name":
            yield f"Name: {name}"
        elif key == "Version":
            yield f"Version: {version}"
        elif key == "Requires-Dist" and (of := next((o for o in requirements if value.startswith(o)), None)):
            if requirements[of]:
                yield f"Requires-Dist: {requirements[of]}"
        elif not line:
            return
        else:
            yield line


with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(f"{directory}/{name}-{version}-{tags}.whl", "w") as target:
    for entry in source.infolist():
        path = entry.filename.replace(old, new, 1)
        if path.endswith("/RECORD") or path.endswith("/"):
            continue
        content = source.read(entry)
        if path == f"{new}/METADATA":
            content = ("\n".join(metadata(content.decode())) + "\n\n").encode()
        entry.filename = path
        entry.compress_type = zipfile.ZIP_STORED
        target.writestr(entry, content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        rows.append([path, f"sha256={digest}", len(content)])
    record = io.StringIO()
    csv.writer(record, lineterminator="\n").writerows([*rows, [f"{new}/RECORD", "", ""]])
    target.writestr(f"{new}/RECORD", record.getvalue())
