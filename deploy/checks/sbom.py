"""Validates a software bill of materials by the schema of CycloneDX, and against the lock file."""

import json
import sys
import tomllib
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).resolve().parents[2]


def main(path):
    text = Path(path).read_text()
    fault = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
    if fault is not None:
        sys.exit(f"{path}: {fault}")
    bill = json.loads(text)
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    known = {(package["name"], package["version"]) for package in locked}
    listed = {(component["name"], component["version"]) for component in bill["components"]}
    if strange := listed - known:
        sys.exit(f"not in Cargo.lock: {sorted(strange)}")
    names = {name for name, _ in listed}
    if missing := {"hyper", "rustls", "tokio", "aws-lc-sys"} - names:
        sys.exit(f"missing: {sorted(missing)}")
    if tests := {"tempfile", "divan", "proptest", "fanlight-testkit"} & names:
        sys.exit(f"only for tests, and listed: {sorted(tests)}")
    unlicensed = [c["name"] for c in bill["components"] if "licenses" not in c]
    print(f"{len(listed)} components; without a licence expression: {unlicensed or 'none'}")


main(*sys.argv[1:])
