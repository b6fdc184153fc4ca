"""Which blocks of a network suffer from 8 bits, and how few must be kept in 16 to stay inside the gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from scanside.calibration.blocks import blocks_of
from scanside.calibration.judges import Judge, Judgement
from scanside.calibration.placement import plan_placement, scales_of, with_pairs
from scanside.errors import CalibrationError
from scanside.exam.write import atomic_file

SCHEMA = "scanside-sensitivity/1"
CANDIDATES = 3
"""How many of the highest-ranked blocks each step of the curve tries."""

Latency = Callable[[bytes], float]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BlockRow:
    """One block: what rounding it alone costs, and what keeping it alone saves (the loss of all but it)."""

    rank: int
    block: str
    operations: int
    alone: Judgement
    all_but: Judgement


@dataclass(frozen=True)
class CurvePoint:
    """The network with `kept` blocks in 16 bits. `latency` is relative to FP32 in the same run, where measured."""

    kept: tuple[str, ...]
    judgement: Judgement
    latency: float | None


class Study:
    """The rounded forms of one network, judged; every judgement is kept on disk, so that a killed study goes on.

    Parameters
    ----------
    model : ModelProto
        The FP32 graph.
    amax : mapping
        The magnitude each rounded tensor is to hold (see `Ranges.amax`).
    judge : Judge
        Any judge of a graph; a judge of other data needs another `state`.
    state : path, optional
        A JSON file of judgements so far.
    """

    def __init__(
        self, model: onnx.ModelProto, amax: Mapping[str, float], judge: Judge, *, state: Path | None = None
    ) -> None:
        self._model, self._amax, self._judge, self._state = model, amax, judge, state
        self._full = plan_placement(model)
        rounded = set(self._full.rounded)
        self.blocks = {
            name: tuple(node for node in nodes if node in rounded)
            for name, nodes in blocks_of(model).items()
            if rounded & set(nodes)
        }
        self._known = {} if state is None or not state.is_file() else _restore(state)

    def graph(self, kept: Collection[str]) -> bytes:
        """The rounded graph with the blocks named in `kept` left in higher precision."""
        nodes = [node for block in kept for node in self.blocks[block]]
        placement = plan_placement(self._model, nodes)
        made = with_pairs(self._model, placement, scales_of(placement, self._amax))
        return made.SerializeToString(deterministic=True)

    def judged(self, kept: Collection[str]) -> Judgement:
        """The judgement of `graph(kept)`."""
        key = " ".join(sorted(kept))
        if key not in self._known:
            self._known[key] = self._judge(self.graph(kept))
            if self._state is not None:
                _save(self._state, self._known)
        return self._known[key]

    def ranking(self, progress: Progress | None = None) -> tuple[BlockRow, ...]:
        """Every block rounded alone, and all but it; the block that costs most alone first."""
        rows: list[tuple[str, Judgement, Judgement]] = []
        for number, block in enumerate(self.blocks):
            others = [name for name in self.blocks if name != block]
            rows.append((block, self.judged(others), self.judged([block])))
            if progress is not None:
                progress(number + 1, len(self.blocks))
        rows.sort(key=lambda row: -row[1].loss)
        return tuple(
            BlockRow(rank, block, len(self.blocks[block]), alone, all_but)
            for rank, (block, alone, all_but) in enumerate(rows, 1)
        )

    def curve(
        self,
        ranking: Sequence[BlockRow],
        limit: int,
        *,
        latency: Latency | None = None,
        progress: Progress | None = None,
    ) -> tuple[CurvePoint, ...]:
        """From no block kept to `limit`, greedily: each step keeps, of the `CANDIDATES` highest-ranked blocks left,
        the one that lowers the loss most.
        """
        kept: tuple[str, ...] = ()
        left = [row.block for row in ranking]
        points = []
        for step in range(min(limit, len(left)) + 1):
            if step:
                best = min(left[:CANDIDATES], key=lambda block: self.judged((*kept, block)).loss)
                kept = (*kept, best)
                left.remove(best)
            seconds = None if latency is None else latency(self.graph(kept))
            points.append(CurvePoint(kept, self.judged(kept), seconds))
            if progress is not None:
                progress(step + 1, min(limit, len(ranking)) + 1)
        return tuple(points)


def chosen_point(curve: Sequence[CurvePoint], inside: Callable[[Judgement], bool]) -> CurvePoint | None:
    """The point to ship: of those whose judgement is inside, the fastest; where times do not differ by 2 % (or were
    not taken), the one that keeps fewer blocks. None when none is inside.
    """
    good = [point for point in curve if inside(point.judgement)]
    if not good:
        return None
    if any(point.latency is None for point in good):
        return min(good, key=lambda point: len(point.kept))
    fastest = min(point.latency for point in good if point.latency is not None)
    near = [point for point in good if point.latency is not None and point.latency <= 1.02 * fastest]
    return min(near, key=lambda point: len(point.kept))


def segmenter_inside(judgement: Judgement) -> bool:
    """Half of what the parity gate allows a segmenter: its Dice with the truth within 0.0025 of FP32's.

    Without a truth the masks themselves must agree to 0.9975, which asks for more. Flips are listed, as in the gate.
    """
    metrics = judgement.metrics
    if "dice_difference" in metrics:
        return abs(metrics["dice_difference"]) <= 0.0025
    return metrics["dice"] >= 1 - 0.0025


def classifier_inside(judgement: Judgement) -> bool:
    """Half of what the parity gate allows a classifier: AUC within 0.0025, and probabilities within 0.01 on average."""
    return abs(judgement.metrics.get("auc_difference", 0.0)) <= 0.0025 and judgement.metrics["mean_error"] <= 0.01


def _save(state: Path, known: Mapping[str, Judgement]) -> None:
    content = {"schema": SCHEMA, "judgements": {key: asdict(judgement) for key, judgement in known.items()}}
    with atomic_file(state) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def _restore(state: Path) -> dict[str, Judgement]:
    try:
        content = json.loads(state.read_bytes())
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        return {
            key: Judgement(float(row["loss"]), {name: float(v) for name, v in row["metrics"].items()})
            for key, row in content["judgements"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(
            "the state of an earlier study is damaged",
            where=state,
            found=(str(error).strip() or type(error).__name__).splitlines()[0],
            remedy="delete the file to start the study again",
        ) from None
