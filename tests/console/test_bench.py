"""`scanside bench`: tables, JSON, files, and one message for each thing that makes no sense."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from scanside.cli import app
from scanside.exam.geometry import Geometry
from scanside.exam.write import write_dicom

if TYPE_CHECKING:
    from tests.conftest import BlobVolume


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["bench", *(str(word) for word in words)])


def one_message(result: Result) -> str:
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def exam(tmp_path_factory: pytest.TempPathFactory, blob_volume: BlobVolume) -> Path:
    geometry = Geometry(blob_volume.voxels.shape, blob_volume.spacing_mm)  # type: ignore[arg-type]
    return Path(write_dicom(tmp_path_factory.mktemp("exam") / "exam.dcm", blob_volume.voxels, geometry))


@pytest.fixture
def how(exam: Path, tiny_pack: Path) -> tuple[object, ...]:
    return ("--exam", exam, "--pack", tiny_pack, "--threads", 1, "--percentiles", 50, "-q")


def test_an_exam_with_its_files(how: tuple[object, ...], tmp_path: Path) -> None:
    result = run("exam", *how, "--trace", tmp_path / "t.json", "--plot", tmp_path / "p.svg")
    assert result.exit_code == 0, result.stderr
    for word in ("p50", "segment", "first_finding_ms", "overlap", "peak_rss_mib", "exams/h"):
        assert word in result.stdout
    assert result.stderr == ""
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    picture = (tmp_path / "p.svg").read_text()
    assert "<svg" in picture
    assert "exam-cpu1-" in picture[picture.index("description") :]  # what it is of stands in the file itself


def test_a_sweep_in_real_time(how: tuple[object, ...], tmp_path: Path) -> None:
    result = run("live", *how, "--rate", 4000, "--trace", tmp_path / "t.json", "--plot", tmp_path / "p.png", "--json")
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert (shown["what"], shown["conditions"]["policy"], shown["checked_answers"]) == ("live", "confirm", 6)
    assert {"first_finding_s", "sections_left", "triplets_left", "push_late_ms"} <= set(shown["figures"])
    assert {"date", "versions", "machine", "command"} <= set(shown["conditions"])
    assert (tmp_path / "t.json").is_file()
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.text["Description"].startswith("live-cpu1-")  # type: ignore[attr-defined]


def test_what_cannot_run_is_refused_before_a_phantom_is_made(tiny_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanside.bench.exam.write_phantom", lambda *_, **__: pytest.fail("a phantom"))
    assert run("live", "--device", "cuda", "--pack", tiny_pack, "-q").exit_code == 4


def test_json_alone_on_stdout(how: tuple[object, ...]) -> None:
    result = run("exam", *how, "--repetitions", 7, "--json")
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert shown["schema"] == "scanside-bench/1"
    assert len(shown["samples_ms"]) == 7


def test_the_phantom_is_made_where_no_exam_is_named(tiny_pack: Path) -> None:
    result = run("exam", "--shape", "16x24x32", "--pack", tiny_pack, "--json", "-q")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["conditions"]["shape"] == [16, 24, 32]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("exam", "--percentiles", "99", "--repetitions", "100"), 2, "at least 368"),
        (("section", "--percentiles", "0"), 2, "--percentiles makes no sense"),
        (("section", "--percentiles", "p50"), 2, "--percentiles makes no sense"),
        (("triplet", "--warm-up", "0"), 2, "warms up at least once"),
        (("live", "--percentiles", "90", "--repetitions", "35"), 2, "Use --repetitions 36"),
        (("live", "--device", "cuda"), 4, "no usable CUDA provider"),
        (("exam", "--shape", "tiny"), 2, "SWEEPxDEPTHxLATERAL"),
        (("exam", "--device", "cuda"), 4, "no usable CUDA provider"),
        (("cold", "--device", "cuda"), 4, "no usable CUDA provider"),
        (("exam", "--pack", "nowhere"), 4, "no model pack here"),
        (("exam", "--plot", "absent/p.png"), 4, "absent/p.png: the file cannot be written"),
        (("exam", "--trace", "absent/t.json"), 4, "absent/t.json: the file cannot be written"),
        (("exam", "--exam", "absent.dcm"), 3, "absent.dcm"),
    ],
)
def test_one_clear_error(
    words: tuple[str, ...], code: int, message: str, exam: Path, tiny_pack: Path, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    defaults = {"--pack": tiny_pack} | ({"--exam": exam} if words[0] != "cold" and "--shape" not in words else {})
    more = [word for name, value in defaults.items() if name not in words for word in (name, value)]
    result = run(*words, *more, "-q")
    assert result.exit_code == code, result.stderr
    assert message in one_message(result)
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_precision_without_a_certificate(how: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from scanside.engine.capabilities import Capabilities

    here = Capabilities("Xeon", 1, frozenset({"avx512f", "amx_bf16"}), {}, ("CPUExecutionProvider",), True)
    monkeypatch.setattr("scanside.engine.predictor.capabilities", lambda: here)
    result = run("exam", *how, "--precision", "bf16")
    assert result.exit_code == 5
    assert "bf16 has no parity certificate" in one_message(result)


def test_without_matplotlib_nothing_is_measured(how: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = run("exam", *how, "--plot", "p.png")
    assert result.exit_code == 4
    assert "scanside[bench]" in one_message(result)


def test_without_loadgen(how: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlperf_loadgen", None)
    exam, pack = how[1], how[3]
    result = run("loadgen", "section", "--out", tmp_path / "logs", "--exam", exam, "--pack", pack)
    assert result.exit_code == 4
    assert "scanside[bench]" in one_message(result)
    assert not (tmp_path / "logs").exists()


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_that_is_not_ours(how: tuple[object, ...], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert run("exam", *how, "--plot", tmp_path / "p.png").exit_code == 4
