"""Contestants run in turns in processes of their own, must find the same lesions, and are compared round by round."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import compare, contest, exam
from benchmarks.contest import Agreement, Contestant, Outcome, Worker, hold, require_same_lesions, stages, summary
from benchmarks.done import Rows
from benchmarks.peers.common import CannotRunError
from benchmarks.worker import cannot_run
from scanside.bench.machine import instruction_set
from scanside.engine.pipeline import POLICIES
from scanside.errors import EngineError, UsageError
from scanside.exam.geometry import Geometry
from scanside.exam.write import write_dicom

if TYPE_CHECKING:
    from tests.conftest import BlobVolume

FP32, ROUNDED = ("fp32", "fp32"), ("fp32", "bf16")
CPU = {"device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory, blob_volume: BlobVolume) -> Path:
    geometry = Geometry(blob_volume.voxels.shape, blob_volume.spacing_mm)  # type: ignore[arg-type]
    return Path(write_dicom(tmp_path_factory.mktemp("exam") / "exam.dcm", blob_volume.voxels, geometry))


def lesion(x: float = 0.0, probability: float = 0.5, score: float = 0.9, grow: float = 0.0) -> dict[str, Any]:
    box = [[x, 10.0, 10.0], [x + 5 + grow, 15.0, 15.0]]
    return {"box_mm": box, "centroid_mm": [x, 12.0, 12.0], "probability": probability, "detection_score": score}


def test_ours_and_two_peers_in_turns(blobs: Path, tiny_pack: Path, tmp_path: Path) -> None:
    contestants = [
        Contestant("ours", "scanside", CPU),
        Contestant("paper", "paper"),  # the tiny pack is no UNet: left out, with the reason
        Contestant("loop", "plain_onnx"),
    ]
    rows = Rows(tmp_path / "t.csv", ("round", "contestant"), {})
    rows.add({"round": 0, "contestant": "loop", "wall_s": 60.0, "cpu_s": 1.0, "lesions": 2, "peak_rss_mib": 1})
    outcome = hold(contestants, rows, exam=blobs, pack=tiny_pack, threads=1, rounds=2, least_score=0.5)
    assert {(row["round"], row["contestant"]) for row in outcome.rounds} == {
        (n, name) for n in (0, 1) for name in ("ours", "loop")
    }
    assert "no place" in outcome.skipped["paper"]
    assert outcome.about["ours"]["lesions"] == outcome.about["loop"]["lesions"] == 2
    assert outcome.about["ours"]["precision"] == "fp32"
    ours, loop = summary(outcome, "ours")
    assert (ours["ratio_low"], ours["ratio_median"], ours["ratio_high"]) == (1.0, 1.0, 1.0)
    assert loop["high_s"] == 60.0  # the round that was there already was not run again
    assert loop["peak_rss_mib"] > 30


def test_ratios_are_those_of_the_same_round() -> None:
    seconds = {"ours": [1.0, 10.0, 2.0], "peer": [3.0, 20.0, 8.0]}
    rounds = [
        {"round": n, "contestant": name, "wall_s": s, "peak_rss_mib": 7}
        for name, values in seconds.items()
        for n, s in enumerate(values)
    ]
    about = {name: {"lesions": 1, "borderline_alone": 0, "box_off_mm": 0.0, "probability_off": 0.0} for name in seconds}
    row = summary(Outcome(about, {}, rounds), "ours")[1]
    assert (row["ratio_median"], row["ratio_low"], row["ratio_high"]) == (3.0, 2.0, 4.0)
    assert (row["median_s"], row["rounds"], row["peak_rss_mib"]) == (8.0, 3, 7)


def test_the_same_lesions_in_any_order() -> None:
    ours = [lesion(0), lesion(40)]
    theirs = [lesion(40.9, probability=0.51), lesion(0.5, grow=0.9)]
    assert require_same_lesions("peer", ours, theirs, FP32, 0.5) == Agreement(
        0, pytest.approx(1.4), pytest.approx(0.01)
    )
    assert require_same_lesions("peer", [], [], FP32, 0.5) == Agreement()


def test_what_rounding_did_to_a_probability_is_told() -> None:
    agreement = require_same_lesions("peer", [lesion(0)], [lesion(0, probability=0.69)], ROUNDED, 0.5)
    assert agreement.probability_off == pytest.approx(0.19)
    with pytest.raises(EngineError, match="probability"):
        require_same_lesions("peer", [lesion(0)], [lesion(0, probability=0.81)], ROUNDED, 0.5)


def test_rounding_may_decide_about_a_borderline_lesion_alone() -> None:
    both = [lesion(0), lesion(40, score=0.51)]
    assert require_same_lesions("peer", both, [lesion(0)], ROUNDED, 0.5).borderline_alone == 1
    assert require_same_lesions("peer", [lesion(0)], both, ROUNDED, 0.5).borderline_alone == 1


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ([], "other lesions"),
        ([lesion(0), lesion(40)], "other lesions"),
        ([lesion(1.5)], "other lesions"),
        ([lesion(0, grow=2.5)], "box"),
        ([lesion(0, probability=0.53)], "probability"),
        ([lesion(0, probability=float("nan"))], "probability"),
    ],
)
def test_another_lesion_is_an_error(theirs: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        require_same_lesions("peer", [lesion(0)], theirs, FP32, 0.5)


def test_the_first_contestant_must_run(blobs: Path, tmp_path: Path) -> None:
    rows = Rows(tmp_path / "t.csv", ("round", "contestant"), {})
    ours = [Contestant("ours", "scanside", CPU)]
    with pytest.raises(EngineError, match="no model pack here") as caught:
        hold(ours, rows, exam=blobs, pack=tmp_path / "none", threads=1, rounds=1, least_score=0.5)
    assert caught.value.exit_code == 4


def test_a_process_that_ends_without_a_word(blobs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text("import sys; sys.exit('gone away')")
    monkeypatch.setattr(contest, "WORKER", script)
    with (
        Worker(Contestant("x", "x"), exam=blobs, pack=None, threads=1) as worker,
        pytest.raises(EngineError, match="gone away"),
    ):
        worker.loaded()


def make_small(module: Any, blobs: Path, tiny_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:  # fmt: skip  # noqa: E501
    monkeypatch.setattr(module, "standard_file", lambda *_: blobs)
    module.make_table(
        out=tmp_path,
        pack=tiny_pack,
        shape=(24, 80, 96),
        seed=1,
        rounds=1,
        threads=1,
        work=tmp_path,
        **CPU,
        allow_uncertified=False,
        **more,
    )


def test_the_exam_table(blobs: Path, tiny_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(exam, blobs, tiny_pack, tmp_path, monkeypatch, peers="onnxruntime", policies="exact,confirm")
    place = f"exam-cpu1-{instruction_set()}-fp32"
    files = {f"{place}-{policy}-24x80x96{end}" for policy in POLICIES for end in (".csv", ".json", "-stages.csv")}
    assert {path.name for path in tmp_path.iterdir()} == {*files, f"{place}-24x80x96-rounds.csv"}
    for policy in POLICIES:  # both tables come from the same rounds of the peer
        with open(tmp_path / f"{place}-{policy}-24x80x96.csv", encoding="utf-8", newline="") as file:
            ours, peer = csv.DictReader(file)
        assert (ours["contestant"], ours["ratio_median"]) == (f"scanside {policy}", "1.0")
        assert peer["contestant"] == "onnxruntime"
        assert float(peer["ratio_median"]) == pytest.approx(float(peer["median_s"]) / float(ours["median_s"]), rel=0.1)
        record = json.loads((tmp_path / f"{place}-{policy}-24x80x96.json").read_text())
        assert (record["policy"], record["seed"], record["precision"]) == (policy, 1, "fp32")
        assert {"command", "date", "machine", "onnxruntime", "fallbacks", "allow_uncertified"} <= set(record)
    with pytest.raises(UsageError, match=r"paper \| torch-compile"):
        make_small(exam, blobs, tiny_pack, tmp_path, monkeypatch, peers="tensorflow", policies="exact")
    with pytest.raises(UsageError, match=r"no such policy; expected exact \| confirm, found quick"):
        make_small(exam, blobs, tiny_pack, tmp_path, monkeypatch, peers="", policies="quick")


def test_a_stage_before_and_after() -> None:
    busy = {"here": [100.0, 200.0, 100.0], "there": [300.0, 400.0, 500.0]}
    rounds = [
        {"round": n, "contestant": name, "stages_ms": {"segment": ms, "link": 0.0}}
        for name, values in busy.items()
        for n, ms in enumerate(values)
    ]
    segment, link = stages(Outcome({}, {}, rounds), ("here", "there"))
    assert (segment["stage"], segment["here_median_s"], segment["there_median_s"]) == ("segment", 0.1, 0.4)
    assert (segment["ratio_median"], segment["ratio_low"], segment["ratio_high"]) == (3.0, 2.0, 5.0)
    assert (link["here_median_s"], link["ratio_median"]) == (0.0, "")
    assert stages(Outcome({}, {}, rounds), ("here",))[0]["high_s"] == 0.2


def test_only_what_lacks_something_here_is_left_out() -> None:
    assert cannot_run(ModuleNotFoundError("no torch", name="torch"))
    assert cannot_run(CannotRunError("PyTorch sees no GPU"))
    for fault in (
        ModuleNotFoundError("a typo", name="benchmarks.peers.papr"),
        ImportError("cannot import name"),
        EngineError("a peer reads other frames"),
        RuntimeError("out of memory"),
    ):
        assert not cannot_run(fault)


@pytest.mark.parametrize(
    ("crash", "words"),
    [("raise RuntimeError('a bug')", "loop: a contestant failed; found RuntimeError: a bug"), ("os._exit(9)", "ended")],
)
def test_a_peer_that_crashes_ends_the_benchmark(
    blobs: Path, tiny_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: str, words: str
) -> None:
    package = tmp_path / "peers" / "benchmarks" / "peers"
    shutil.copytree(
        contest.ROOT / "benchmarks", package.parent, ignore=shutil.ignore_patterns("results", "__pycache__")
    )
    (package / "plain_onnx.py").write_text(f'"""A peer."""\nimport os\n{crash}\n')
    monkeypatch.setattr(contest, "WORKER", package.parent / "worker.py")
    contestants = [Contestant("ours", "scanside", CPU), Contestant("loop", "plain_onnx", path=package.parents[1])]
    rows = Rows(tmp_path / "t.csv", ("round", "contestant"), {})
    with pytest.raises(EngineError, match=words):
        hold(contestants, rows, exam=blobs, pack=tiny_pack, threads=1, rounds=1, least_score=0.5)


def test_another_commit(
    blobs: Path,
    tiny_pack: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        commit = compare.commit_of("HEAD")
    except UsageError:
        pytest.skip("no repository here")
    make_small(compare, blobs, tiny_pack, tmp_path, monkeypatch, revision="HEAD", policy="exact")
    assert (tmp_path / f"compare-{commit[:10]}-24x80x96.csv").is_file()
    assert "times as long as this tree" in capsys.readouterr().out


def test_a_commit_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="no such commit"):
        compare.commit_of("no-such-branch")
