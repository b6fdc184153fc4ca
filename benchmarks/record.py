"""How a results file says where it comes from."""

from __future__ import annotations

import csv
import datetime
import io
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import scanside
from scanside.exam.write import atomic_file


def conditions() -> dict[str, Any]:
    """Command, versions and date."""
    return {
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "scanside": scanside.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "onnxruntime", "opencv-python-headless", "pydicom")},
    }


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
