"""How a results file says where it comes from."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import scanside
from scanside.bench.machine import machine_record, package_versions
from scanside.exam.write import atomic_file

PLACES = (
    "--out",
    "--work",
    "--runs",
    "--docs",
    "--pack",
    "--busbra",
    "--imagenet",
    "--start",
    "--cohort",
    "--predictions",
    "--view",
    "--two-views",
)
"""Options that say where things lie here: no part of what was measured."""


def conditions() -> dict[str, Any]:
    """Command, date, source, versions and machine."""
    return {
        "command": command(sys.argv[1:]),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "scanside": scanside.__version__,
        "source": source_tree(),
        **package_versions(),
        "machine": machine_record(),
    }


def command(words: Sequence[str]) -> str:
    """The command line as anyone could give it: without the folders of this machine."""
    kept, skip = [], False
    for word in words:
        name, given, _ = word.partition("=")
        if not skip and name not in PLACES:
            kept.append(word)
        skip = name in PLACES and not given
    return " ".join(["python -m benchmarks", *kept])


def source_tree() -> str:
    """The git hash of `scanside/` as it lies here, changes included; "unknown" outside a checkout.

    Rows that were measured with another tree are not mixed with this one's.
    """
    root = Path(__file__).parents[1]
    try:
        tree = subprocess.run(
            ["git", "rev-parse", "HEAD:scanside"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "diff", "HEAD", "--", "scanside"], cwd=root, capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return tree[:12] + (f"+{hashlib.sha256(changes).hexdigest()[:8]}" if changes else "")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as CSV, replaced atomically."""
    with atomic_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text.detach()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Content as indented JSON, replaced atomically."""
    with atomic_file(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
