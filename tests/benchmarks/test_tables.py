"""The other tables at small size with the tiny pack: files, columns, resuming, and the page made of them all."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from benchmarks import page, phantoms, roofline, scaling, start
from benchmarks.record import write_csv, write_json
from benchmarks.scaling import Case, cases
from scanside.errors import ExamReadError, UsageError
from scanside.exam.geometry import Geometry
from scanside.exam.write import write_dicom

if TYPE_CHECKING:
    from tests.conftest import BlobVolume

HOW: dict[str, Any] = {"device": "cpu", "precision": "fp32", "policy": "exact", "allow_uncertified": False}


def rows_of(folder: Path, pattern: str) -> list[dict[str, str]]:
    (file,) = folder.glob(pattern)
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of every kind; those that take long are invented."""
    folder = tmp_path_factory.mktemp("results")
    machine = {"processor": "Invented 9000", "cores": 2, "instructions": "avx512amx"}
    record = {
        "machine": machine,
        "command": "python -m benchmarks exam",
        "date": "2026-01-01",
        "source": "abc",
        "onnxruntime": "1.32",
        "policy": "exact",
        "ran_precision": "bf16",
        "threads": 2,
        "contestants": {"scanside": {"is": "ours"}, "paper": {"is": "eager"}, "openvino": {"is": "async"}},
        "left_out": {"cuda-graphs": "PyTorch sees no GPU"},
    }
    columns = "contestant,median_s,low_s,high_s,ratio_median,ratio_low,ratio_high,peak_rss_mib,probability_off\n"
    (folder / "exam-cpu2-bf16.csv").write_text(
        columns
        + "scanside,5.0,4.9,5.5,1.0,1.0,1.0,900,0.0\n"
        + "paper,60.0,58.0,66.0,12.0,11.0,13.0,2000,0.001\n"
        + "openvino,4.5,4.4,4.8,0.9,0.85,0.97,1500,0.02\n"
    )
    (folder / "exam-cpu2-bf16.json").write_text(json.dumps(record))
    (folder / "exam-cpu2-bf16-rounds.csv").write_text("round\n0\n")
    return folder


def test_scaling_changes_one_thing_a_row() -> None:
    rows = cases((318, 600, 800), 4)
    sweep = [case for case in rows if case.varied == "sweep"]
    assert sweep[-1] == Case("sweep", 1.0, (318, 600, 800), (168.0, 60.0, 154.0), 1, 4)
    assert sweep[0].shape == (32, 600, 800)
    assert sweep[0].extent_mm[0] == pytest.approx(168 * 32 / 318)  # the same voxel size
    voxels = [case for case in rows if case.varied == "voxels"]
    assert all(case.extent_mm == (168.0, 60.0, 154.0) for case in voxels)
    sizes = [case.shape[0] * case.shape[1] * case.shape[2] / (318 * 600 * 800) for case in voxels]
    assert sizes == pytest.approx([0.1, 0.2, 0.5], rel=0.02)
    assert [case.threads for case in rows if case.varied == "threads"] == [1, 2, 4]
    assert [case.lesions for case in rows if case.varied == "lesions"] == [1, 3, 10]


def test_the_scaling_table_goes_on_where_it_stopped(
    tiny_pack: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [case for case in cases((16, 24, 32), 2) if case.varied in ("sweep", "threads")]
    few = [few[0], *few[-2:]]
    given: dict[str, Any] = {"pack": tiny_pack, "shape": (16, 24, 32), "threads": 2, "repetitions": 1, **HOW}
    real, measured = scaling.measured, []

    def interrupted(predictor: Any, case: Case, repetitions: int) -> dict[str, Any]:
        if len(measured) == 2:
            measured.append(None)
            raise KeyboardInterrupt
        measured.append(case)
        return real(predictor, case, repetitions)

    monkeypatch.setattr(scaling, "cases", lambda *_: few)
    monkeypatch.setattr(scaling, "measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scaling.make_table(out=results, **given)
    assert not list(results.glob("scaling-*.csv"))
    scaling.make_table(out=results, **given)
    assert [case for case in measured if case is not None] == few
    rows = rows_of(results, "scaling-*.csv")
    assert [(row["varied"], row["value"]) for row in rows] == [(c.varied, str(c.value)) for c in few]
    assert all(float(row["low_s"]) <= float(row["median_s"]) <= float(row["high_s"]) for row in rows)
    assert [row["threads"] for row in rows] == ["2", "1", "2"]
    assert int(rows[-1]["sections"]) == 16 + 24 + 32


def test_the_roofline_table(
    tiny_pack: Path, results: Path, tmp_path: Path, blob_volume: BlobVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scanside.bench.rates import Rate

    geometry = Geometry(blob_volume.voxels.shape, blob_volume.spacing_mm)  # type: ignore[arg-type]
    exam = write_dicom(tmp_path / "exam.dcm", blob_volume.voxels, geometry)
    monkeypatch.setattr(roofline, "standard_file", lambda *_: exam)
    monkeypatch.setattr(roofline, "gemm_rate", lambda *_, **__: Rate(100e9, "a test"))
    monkeypatch.setattr(roofline, "memory_rate", lambda *_: Rate(10e9, "a test"))
    roofline.make_table(
        out=results, pack=tiny_pack, shape=(24, 80, 96), seed=1, rounds=1, threads=1, work=tmp_path, **HOW
    )
    rows = {row["stage"]: row for row in rows_of(results, "roofline-*-24x80x96.csv")}
    assert list(rows) == ["decode", "reformat", "components", "link", "segment", "classify"]
    voxels = blob_volume.voxels.nbytes
    assert float(rows["decode"]["gb"]) == pytest.approx((exam.stat().st_size + voxels) / 1e9, abs=1e-3)
    layers = rows_of(results, "roofline-*-layers.csv")
    assert float(rows["segment"]["gop"]) == pytest.approx(
        sum(float(row["gop"]) for row in layers if row["network"] == "segmenter"), abs=2e-3
    )
    for row in rows.values():
        assert float(row["bound_s"]) >= max(float(row["compute_s"]), 0.0) - 1e-4


def test_the_start_table(tiny_pack: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scanside.bench import cold

    def started(_: Any) -> dict[str, Any]:
        conditions = {"name": "cpu1-avx2-fp32-exact", "machine": {"processor": "P", "cores": 1, "instructions": "avx2"}}
        return {"parts_ms": dict.fromkeys(cold.PARTS, 3.0), "conditions": conditions, "peak_rss_mib": 5.0}

    monkeypatch.setattr(cold, "start", started)
    start.make_table(out=results, pack=tiny_pack, threads=1, repetitions=6, **HOW)
    warm, cold_row = rows_of(results, "start-*.csv")
    assert (warm["cache"], cold_row["cache"]) == ("warm", "cold")
    assert (warm["median_ms"], warm["first_section_ms"], warm["starts"]) == ("15.0", "3.0", "6")


def test_the_page_holds_every_table_and_plot(results: Path, tmp_path: Path) -> None:
    page.make_table(out=results, pack=None, docs=tmp_path)
    text = (tmp_path / "performance.md").read_text(encoding="utf-8")
    made = {file.name.split("-")[0] for file in results.glob("*.json")}
    assert made == {"exam", "scaling", "roofline", "start"}, "the tests above make them"
    assert text.count("\n## ") == 5
    missing = text[text.index("## Missing") :]
    assert re.findall(r"^- (\w+): `python -m benchmarks \1`$", missing, re.MULTILINE) == [
        kind for kind in page.PARTS if kind not in made
    ]
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) == 4
    assert all((tmp_path / link).read_bytes()[:4] == b"\x89PNG" for link in links)
    assert "| paper | eager | 60.0 (58.0 to 66.0) | 12.0 (11.0 to 13.0) | 10 x: reached | 2000 | 0.001 |" in text
    assert "| 0.9 (0.85 to 0.97) | 1 x: missed |" in text
    assert "cuda-graphs is left out: PyTorch sees no GPU" in text
    assert "Invented 9000, 2 cores, avx512amx" in text
    assert "segment is bound by" in text
    with Image.open(tmp_path / links[0]) as image:
        said = image.text["Description"]  # type: ignore[attr-defined]
    assert said == "python -m benchmarks exam; 2026-01-01; source abc; Invented 9000, 2 cores"
    page.make_table(out=results, pack=None, docs=tmp_path)
    assert (tmp_path / "performance.md").read_text(encoding="utf-8") == text


INVENTED = {
    "machine": {"processor": "Invented 9000", "cores": 2, "instructions": "avx512amx"},
    "command": "python -m benchmarks x",
    "date": "2026-01-01",
    "source": "abc",
    "onnxruntime": "1.32",
    "policy": "confirm",
    "ran_precision": "bf16",
    "precision": "bf16",
    "threads": 2,
}


def invented(folder: Path, name: str, rows: list[dict[str, Any]], **record: Any) -> None:
    if rows:
        write_csv(folder / f"{name}.csv", rows)
    write_json(folder / f"{name}.json", INVENTED | record)


def test_the_page_knows_the_other_tables(tmp_path: Path) -> None:
    sweep = {"seed": 5200, "frames_per_s": 5.3, "median_s": 0.2, "ci95_low_s": 0.1, "ci95_high_s": 0.3}
    invented(tmp_path, "live-c", [sweep | {"worst_ms": 1234.5, "sections_left": 6}])
    policy = {"transverse_a_volume": 318, "sagittal_a_volume": 100, "coronal_a_volume": 60, "sensitivity": 0.9}
    difference = {"sensitivity": {"value": -0.0233, "low": -0.0714, "high": 0.0}, "auc": None, "lesions_both_found": 3}
    rows = [{"policy": name} | policy for name in ("exact", "confirm")]
    invented(tmp_path, "policies-c", rows, volumes=20, lesions=43, difference=difference)
    invented(tmp_path, "loadgen-c", [{"what": "exam", "valid": 0, "p90_ms": 17.5}], seconds=60.0, queries=64)
    invented(tmp_path, "trace-c", [{"stage": "segment", "busy_ms": 3.0}], repetitions=6, median_ms=4.5)
    soaked = [{"exam": i, "resident_mib": 900 + i, "threads": 3, "open_files": 7} for i in range(3)]
    left = {"threads_more": 0, "open_files_more": 0, "different_reports_an_exam": 1}
    invented(tmp_path, "soak-c", soaked, exams=3, resident_mib_per_100_exams=0.25, **left)
    parity = {"network": "segmenter", "precision": "bf16", "auc difference": "-0.0004 (-0.0012 to 0.0004)"}
    invented(tmp_path, "parity", [parity])
    invented(
        tmp_path, "phantoms-summary", [], seeds=[5000, 5039], volumes=40, lesions=84, found=75, sensitivity=0.8929,
        false_positives_per_volume=1.1, auc=0.9933, accuracy=0.9467, froc_score=0.8599, dice_mean=0.8, dice_median=0.85,
        found_by_size={"T1 (< 20 mm)": [36, 46], "T2 (20–50 mm)": [37, 37]},
    )  # fmt: skip
    page.make_table(out=tmp_path, pack=None, docs=tmp_path / "docs")
    text = (tmp_path / "docs" / "performance.md").read_text(encoding="utf-8")
    for said in (
        "The goal, 1 s from the last frame to the report, is missed: the slowest sweep took 1.23 s.",
        "| sensitivity | -0.0233 | -0.0714 to 0 |",
        "| auc | not known |  |",
        "| exam | 0 | 17.5 |",
        "at least 60 s and 64 queries; official MLPerf runs take 600 s",
        "the median of 6 runs, 4.5 ms",
        "| 3 | 0.25 | 0 | 0 | 1 |",
        "| segmenter | bf16 | -0.0004 (-0.0012 to 0.0004) |",
        "| 40 | 84 | 75 | 0.8929 | 1.1 | 0.8599 | 0.8 | 0.85 | 0.9933 | 0.9467 |",
        "| T1 (< 20 mm) | 36 of 46 |",
        "- exam: `python -m benchmarks exam`",
    ):
        assert said in text
    assert {path.stem for path in (tmp_path / "docs" / "images").iterdir()} == {
        f"performance-{name}-c" for name in ("live", "policies", "soak")
    }


def test_a_page_of_nothing_or_of_damage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results"):
        page.make_table(out=tmp_path, pack=None, docs=tmp_path)
    (tmp_path / "exam-x.csv").write_text("contestant\n")
    (tmp_path / "exam-x.json").write_text("{half")
    with pytest.raises(ExamReadError, match=r"exam-x\.json"):
        page.make_table(out=tmp_path, pack=None, docs=tmp_path)
    assert not (tmp_path / "performance.md").exists()


def test_the_phantom_table_goes_on_where_it_stopped(
    tiny_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seeds = phantoms.make_phantom, []

    def small(seed: int) -> Any:
        seeds.append(seed)
        if seeds == [5000, 5001]:
            raise KeyboardInterrupt
        return real(seed, shape=(16, 24, 32), lesions=1)

    monkeypatch.setattr(phantoms, "make_phantom", small)
    monkeypatch.setattr(phantoms, "summarise", lambda lesions, volumes: {"lesions": len(lesions), "n": len(volumes)})
    with pytest.raises(KeyboardInterrupt):
        phantoms.make_table(range(5000, 5002), tmp_path, tiny_pack)
    phantoms.make_table(range(5000, 5002), tmp_path, tiny_pack)
    assert seeds == [5000, 5001, 5001]
    assert [row["seed"] for row in rows_of(tmp_path, "phantoms-volumes.csv")] == ["5000", "5001"]
    assert json.loads((tmp_path / "phantoms-summary.json").read_text())["n"] == 2


def test_knowing_the_tables_needs_no_torch() -> None:
    """A benchmark that measures its own process's memory must not hold what only other tables need."""
    asked = "import sys; from benchmarks.__main__ import tables; tables(); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
