"""What a scanner workstation does after `pip install .`: run with its Python, in a folder outside the repository.

Usage: python smoke.py FOLDER
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

SCANSIDE = Path(sys.executable).with_name("scanside")
WORKSHOP = ("torch", "torchvision", "segmentation_models_pytorch", "onnx", "scipy", "sklearn", "matplotlib")
EXAMS = {
    "siemens": ("--format", "dicom", "--vendor", "siemens"),
    "ge": ("--format", "dicom", "--vendor", "ge"),
    "tdsc": ("--format", "nrrd"),
}


def scanside(*words: str | Path) -> str:
    """Stdout of one `scanside` command, which must succeed."""
    done = subprocess.run([SCANSIDE, *map(str, words)], capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise SystemExit(f"scanside {' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def main(folder: Path) -> None:
    """Run the verbs of a workstation on the same reduced phantom in three formats."""
    present = [name for name in WORKSHOP if importlib.util.find_spec(name) is not None]
    assert not present, f"the scanner side installed the workshop: {present}"
    print(scanside("--version").strip())
    assert json.loads(scanside("doctor", "--json"))["healthy"]

    evaluate = [SCANSIDE, "evaluate", "predictions.csv", "--out", "evaluation"]
    done = subprocess.run(evaluate, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4, done.stderr
    assert 'pip install "scanside[eval]"' in done.stderr

    reports = {}
    for name, options in EXAMS.items():
        scanside("phantom", folder / name, "--seed", "11", "--lesions", "2", "--shape", "80x120x160", "-q", *options)
        exam = next(p for p in (folder / name).iterdir() if p.name.startswith("exam"))
        verdicts = [row["verdict"] for row in json.loads(scanside("inspect", exam, "--json"))["volumes"]]
        assert len(verdicts) == 1, (name, verdicts)
        assert verdicts != ["refused"], name
        out = folder / f"report-{name}"
        reports[name] = json.loads(scanside("analyze", exam, "--out", out, "--json", "--quiet"))
        assert json.loads((out / "report.json").read_text())["lesions"] == reports[name]["lesions"]
        assert (out / "masks.nrrd").is_file()
        device = reports[name]["device"]
        print(f"{name}: {len(reports[name]['lesions'])} lesions, {device['runtime']} {device['precision']}")

    first = reports["siemens"]["lesions"]
    assert first, "nothing was found, so the formats were not compared"
    for name, report in reports.items():
        assert len(report["lesions"]) == len(first), f"{name} found other lesions than siemens"
        for mine, theirs in zip(report["lesions"], first, strict=True):
            assert math.dist(mine["centroid_mm"], theirs["centroid_mm"]) <= 1.0, name
            assert abs(mine["probability"] - theirs["probability"]) <= 0.02, name
    print("the scanner side works without the workshop")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
