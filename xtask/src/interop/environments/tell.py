import importlib.metadata, json, os, site, sys, sysconfig

distributions = {}
for found in importlib.metadata.distributions(path=[sysconfig.get_paths()["purelib"]]):
    files = [str(file) for file in found.files or [] if not str(file).endswith((".pyc", "REQUESTED", "INSTALLER"))]
    missing = [str(file) for file in found.files or [] if not file.locate().exists() and not str(file).endswith(".pyc")]
    distributions[found.metadata["Name"]] = {
        "version": found.version,
        "files": sorted(files),
        "missing": missing,
        "scripts": sorted(str(entry) for entry in found.entry_points),
        "requires": found.requires,
        "installer": bool(found.read_text("INSTALLER")),
    }
scripts = sorted(name for name in os.listdir(sysconfig.get_paths()["scripts"]) if "ctivate" not in name)
told = {
    "distributions": distributions,
    "scripts": [name for name in scripts if not name.startswith("python")],
    "interpreters": [name for name in ("python", "python3", "python3.11") if name in scripts],
    "paths": sysconfig.get_paths(),
    "site": site.getsitepackages(),
    "prefix": [sys.prefix, sys.base_prefix, sys.executable],
    "path": [path for path in sys.path if "zip" not in path],
}
print(json.dumps(told, indent=1, sort_keys=True))
