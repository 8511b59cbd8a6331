"""What all drills share: their size, the programs, the figures, and the verdict."""

import argparse
import os
import shutil
import subprocess
import sys
import traceback
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

Binaries = namedtuple("Binaries", "fanlight loadtest")
# Subscribers, destinations, publications per second to each, seconds before and after a disaster.
Size = namedtuple("Size", "subscribers destinations rate seconds is_quick")
FULL = Size(12, 8, 25, 6.0, False)
QUICK = Size(3, 2, 20, 1.0, True)


class Outcome:
    """What a drill found: rows of figures, and the promises that were broken."""

    def __init__(self, title):
        self.title, self.rows, self.broken, self.notes = title, [], [], []

    def row(self, what, **figures):
        self.rows.append({"": what} | {name.replace("_", " "): shown(value) for name, value in figures.items()})

    def require(self, holds, promise):
        if not holds:
            self.broken.append(promise)

    def note(self, text):
        self.notes.append(text)

    def markdown(self):
        lines = [f"## {self.title}", ""]
        # Rows with the same columns are one table.
        columns = None
        for row in self.rows:
            if list(row) != columns:
                columns = list(row)
                lines += [""] if lines[-1] else []
                lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
            lines.append("| " + " | ".join(row.values()) + " |")
        lines += ["", *self.notes] if self.notes else []
        verdict = "kept" if not self.broken else "BROKEN: " + "; ".join(self.broken)
        return "\n".join([*lines, "", f"Promise {verdict}.", ""])


def shown(value):
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def delivered(outcome, crowd):
    """What holds in every drill: nobody misses in silence, nobody hears anything twice."""
    outcome.require(crowd.silently_missed() == 0, f"{crowd.silently_missed()} deliveries missed in silence")
    outcome.require(crowd.heard_twice() == 0, f"{crowd.heard_twice()} heard twice")


def counts(crowd):
    """The columns of every table: what became of publications."""
    outcomes = crowd.outcomes()
    acked = outcomes.pop("acked", 0)
    refused = outcomes.pop("unavailable", 0) + outcomes.pop("overloaded", 0)
    return {"acked": acked, "refused": refused, "unsure": sum(outcomes.values())}


def binaries(release):
    """The programs, built where they are missing."""
    missing = [program for program in ("redis-server", "redis-cli") if not shutil.which(program)]
    if missing:
        sys.exit(f"missing: {', '.join(missing)} (apt-get install redis)")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    folder = target.absolute() / ("release" if release else "debug")
    found = Binaries(folder / "fanlight", folder / "fanlight-loadtest")
    if not all(path.exists() for path in found):
        profile = ["--release"] if release else []
        packages = ["--package", "fanlight", "--package", "fanlight-loadtest"]
        subprocess.run(["cargo", "build", "--locked", *profile, *packages], cwd=ROOT, check=True)
    return found


def options(parser):
    parser.add_argument("--quick", action="store_true", help="a few clients and seconds: to see that it works")
    parser.add_argument("--debug", action="store_true", help="the programs in target/debug, not the release")
    parser.add_argument(
        "--folder",
        type=lambda path: Path(path).absolute(),
        default=ROOT / "target/drills",
        help="where logs and files go (target/drills)",
    )
    return parser


def perform(name, title, script, found, size, folder):
    """One drill; what it found, whatever happened."""
    outcome = Outcome(title)
    try:
        script(outcome, found, folder / name, size)
    except Exception as error:
        traceback.print_exc()
        outcome.require(False, f"{type(error).__name__}: {error}")
    return outcome


def main(name, title, script):
    """Runs one drill by itself."""
    chosen = options(argparse.ArgumentParser(description=title)).parse_args()
    size = QUICK if chosen.quick else FULL
    outcome = perform(name, title, script, binaries(not chosen.debug), size, chosen.folder)
    print(outcome.markdown())
    sys.exit(bool(outcome.broken))
