"""What of the workshop has no `scanside` verb yet: thin, one function a verb."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from scanside.errors import ScansideError, UsageError

_ORDER = """\
`scanside cohort` makes cohorts, `scanside train` trains and `scanside export` makes packs.

  python -m scanside.training reference RUN/classifier.safetensors --out weights
  python -m scanside.training busbra --busbra BUSBRA --weights RUN/segmenter.safetensors --out RUN
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb; a `ScansideError` becomes its message on stderr and its exit code."""
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        parsed.run(parsed)
    except ScansideError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scanside.training",
        description="Keep or measure trained weights.",
        epilog=_ORDER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    busbra = verbs.add_parser("busbra", help="Dice of a segmenter on BUS-BRA's held-out fold 1")
    busbra.add_argument("--busbra", type=Path, required=True)
    busbra.add_argument("--weights", type=Path, required=True, help=".safetensors, a checkpoint, or the pack's .onnx")
    busbra.add_argument("--out", type=Path, required=True)
    busbra.add_argument("--fold", type=int, default=1)
    busbra.add_argument("--longer-side", type=int, default=160)
    busbra.add_argument("--threshold", type=float, default=0.5)
    busbra.set_defaults(run=_busbra)

    reference = verbs.add_parser("reference", help="a trained network's weights in half precision, and its record")
    reference.add_argument("weights", type=Path, help=".safetensors that a training left")
    reference.add_argument("--out", type=Path, required=True)
    reference.set_defaults(run=_reference)
    return parser


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _busbra(options: argparse.Namespace) -> None:
    from scanside.training.evaluate_busbra import evaluate_busbra

    summary = evaluate_busbra(
        options.weights,
        options.busbra,
        options.out,
        fold=options.fold,
        longer_side=options.longer_side,
        threshold=options.threshold,
    )
    _say(f"fold {options.fold}: {summary.images} images, mean Dice {summary.mean:.4f}, median {summary.median:.4f}")


def _reference(options: argparse.Namespace) -> None:
    from scanside.models.weights import read_tensors, save_half
    from scanside.training.checkpoint import write_json
    from scanside.training.start import training_record

    record, tensors = training_record(options.weights), read_tensors(options.weights)
    if options.out.resolve() == options.weights.parent.resolve():
        raise UsageError(
            "the weights would be replaced by less precise ones", where=options.out, remedy="another --out"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / options.weights.with_suffix(".safetensors").name
    kept.with_suffix(".json").unlink(missing_ok=True)  # new weights never lie beside another training's record
    for file in save_half(tensors, kept):
        _say(str(file))
    write_json(kept.with_suffix(".json"), record)
