"""What the verb `calibrate` does, for the command line to call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scanside.calibration.calibrate import Calibrated, Settings, calibrate, require_room
from scanside.calibration.data import Amount, Find, Loaded, sources_of
from scanside.calibration.selection import Lesion, read_test_cases, refuse_test_cases
from scanside.errors import OutputError, UsageError
from scanside.pack import NETWORKS, Pack, load_pack

if TYPE_CHECKING:
    from scanside.exam.volume import Volume


def calibrate_pack(
    pack: Path | None,
    data: Sequence[str],
    out: Path,
    *,
    method: str | None = None,
    sections: int = Amount.sections,
    triplets: int = Amount.triplets,
    seed: int = Amount.seed,
    test_cases: Path | None = None,
    ranges: Path | None = None,
    keep: Sequence[str] = (),
    threads: int = 0,
    stages: Callable[[str, int, int], None] | None = None,
) -> Calibrated:
    """The pack with 8-bit activations, in `out`; see `calibrate`.

    `method` None takes each network's own default; `keep` holds texts "NETWORK:BLOCK".

    Raises
    ------
    ScansideError
        As `calibrate`, `sources_of` and `load_pack`.
    """
    opened = load_pack(pack)
    settings = Settings(
        **({} if method is None else {"method": dict.fromkeys(NETWORKS, method)}),
        amount=Amount(sections, triplets, seed),
        test_cases=read_test_cases(test_cases),
        ranges=ranges,
        keep=_kept(keep),
        threads=threads,
    )
    return calibrate(opened, sources_of(data, finder(opened, threads)), out, settings, stages=stages)


def calibrated(
    make: Callable[[Path], Path],
    out: Path,
    data: Sequence[str],
    *,
    stages: Callable[[str, int, int], None] | None = None,
) -> Path:
    """The pack at `out` that `make` puts into a folder it is given, calibrated if `data` are named.

    It appears whole or not at all, and `data` that cannot be used are refused before anything is made.

    Raises
    ------
    ScansideError
        As `calibrate_pack` and `make`.
    """
    if not data:
        return make(out)
    require_room(out)
    try:
        beside = tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent)
    except OSError as error:
        raise OutputError("the pack cannot be written", where=out, found=error.strerror) from None
    with beside as folder:
        pack = Path(folder) / "pack"
        sources = sources_of(data, lambda volume: finder(load_pack(pack))(volume))  # called when the pack is there
        refuse_test_cases({source.name: source.names for source in sources}, ())
        return calibrate(load_pack(make(pack)), sources, out, Settings(), stages=stages).pack


def _kept(texts: Sequence[str]) -> dict[str, list[str]]:
    kept: dict[str, list[str]] = {}
    for text in texts:
        network, _, block = text.partition(":")
        if network not in NETWORKS or not block:
            expected = f"NETWORK:BLOCK with {' or '.join(NETWORKS)}"
            raise UsageError("--keep makes no sense", expected=expected, found=repr(text))
        kept.setdefault(network, []).append(block)
    return kept


def finder(pack: Pack, threads: int = 0) -> Find:
    """What finds lesions in exams whose truth is not known: the pack itself, in FP32."""

    def find(volume: Volume) -> Loaded:
        from scanside.engine.predictor import Predictor

        with Predictor(pack, "cpu", "fp32", threads or None) as predictor:
            report, voxels = predictor.analyze_volume(volume)
        return Loaded(voxels, tuple(Lesion(lesion.id, lesion.box_mm) for lesion in report.lesions))

    return find
