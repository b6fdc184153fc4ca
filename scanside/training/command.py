"""The workshop's command line: thin, one function a verb."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from scanside.errors import ScansideError, UsageError

_ORDER = """\
The order is cohort -> segment -> classify -> pack; `default` runs all of it. Every verb continues where a killed run
stopped.

  python -m scanside.training cohort --out COHORT --seeds 1000:1072 --lesions 2:9
  python -m scanside.training segment --cohort COHORT --busbra BUSBRA --out RUN
  python -m scanside.training classify --cohort COHORT --imagenet WEIGHTS --out RUN
  python -m scanside.training pack --run RUN --cohort COHORT --out PACK
  python -m scanside.training busbra --busbra BUSBRA --weights RUN/segmenter.safetensors --out RUN
  python -m scanside.training default --busbra BUSBRA --imagenet WEIGHTS --out RUN
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
        description="Train the networks of a model pack.",
        epilog=_ORDER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    cohort = verbs.add_parser("cohort", help="make phantoms and store what training needs of them")
    cohort.add_argument("--out", type=Path, required=True)
    cohort.add_argument("--seeds", type=_seeds, required=True, metavar="FIRST:LAST", help="half-open range of seeds")
    cohort.add_argument("--lesions", type=_pair, default=(2, 9), metavar="FEWEST:MOST")
    cohort.add_argument("--workers", type=int, default=2)
    cohort.set_defaults(run=_cohort)

    segment = verbs.add_parser("segment", help="train the segmenter")
    segment.add_argument("--cohort", "--data", type=Path, required=True)
    segment.add_argument("--busbra", type=Path, help="folder of BUS-BRA; without it only phantoms are seen")
    _add_run(segment, "segmenter")
    segment.set_defaults(run=_segment)

    classify = verbs.add_parser("classify", help="train the classifier")
    classify.add_argument("--cohort", "--data", type=Path, required=True)
    classify.add_argument("--imagenet", type=Path, help="folder of ResNet50 weights in the Keras layout")
    _add_run(classify, "classifier")
    classify.set_defaults(run=_classify)

    busbra = verbs.add_parser("busbra", help="Dice of a segmenter on BUS-BRA's held-out fold 1")
    busbra.add_argument("--busbra", type=Path, required=True)
    busbra.add_argument("--weights", type=Path, required=True, help=".safetensors, a checkpoint, or the pack's .onnx")
    busbra.add_argument("--out", type=Path, required=True)
    busbra.add_argument("--fold", type=int, default=1)
    busbra.add_argument("--longer-side", type=int, default=160)
    busbra.add_argument("--threshold", type=float, default=0.5)
    busbra.set_defaults(run=_busbra)

    pack = verbs.add_parser("pack", help="make a model pack of both trained networks")
    pack.add_argument("--run", type=Path, required=True, dest="folder", help="--out of segment and classify")
    pack.add_argument("--cohort", type=Path, required=True, help="its last phantoms give the golden cases")
    pack.add_argument("--out", type=Path, required=True)
    pack.add_argument("--name", default="scanside-default")
    pack.add_argument("--version", default="0.1.0")
    pack.set_defaults(run=_pack)

    default = verbs.add_parser("default", help="everything: cohort, both networks, and the pack")
    default.add_argument("--busbra", type=Path, required=True)
    default.add_argument("--imagenet", type=Path)
    default.add_argument("--out", type=Path, required=True)
    default.add_argument("--seed", type=int, default=0)
    default.add_argument("--seeds", type=_seeds, default=range(1000, 1072), metavar="FIRST:LAST")
    default.add_argument("--lesions", type=_pair, default=(2, 9), metavar="FEWEST:MOST")
    default.add_argument("--workers", type=int, default=2)
    default.set_defaults(run=_default)
    return parser


def _add_run(parser: argparse.ArgumentParser, recipe: str) -> None:
    parser.add_argument("--recipe", default=recipe, help="a recipe of the package, or the path of a .toml file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int, help="budget in steps, instead of the recipe's")
    parser.add_argument("--minutes", type=float, help="budget in minutes, instead of the recipe's")


def _seeds(text: str) -> range:
    first, last = _pair(text)
    return range(first, last)


def _pair(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"expected two numbers, FIRST:LAST, found {text}")
    return int(first), int(last)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _cohort(options: argparse.Namespace) -> None:
    from scanside.training.cohort import build_cohort

    files = build_cohort(
        options.out,
        options.seeds,
        workers=options.workers,
        lesions=options.lesions,
        progress=lambda done, total: _say(f"{done}/{total} phantoms"),
    )
    _say(f"{len(files)} phantoms in {options.out}")


def _segment(options: argparse.Namespace) -> None:
    from scanside.training.recipe import SegmenterRecipe, load_recipe
    from scanside.training.segment import train_segmenter

    recipe = load_recipe(
        options.recipe, SegmenterRecipe, seed=options.seed, steps=options.steps, minutes=options.minutes
    )
    _flush_denormals()
    _say(str(train_segmenter(recipe, options.cohort, options.out, busbra=options.busbra)))


def _classify(options: argparse.Namespace) -> None:
    from scanside.training.classify import train_classifier
    from scanside.training.recipe import ClassifierRecipe, load_recipe

    recipe = load_recipe(
        options.recipe, ClassifierRecipe, seed=options.seed, steps=options.steps, minutes=options.minutes
    )
    _flush_denormals()
    _say(str(train_classifier(recipe, options.cohort, options.out, imagenet=options.imagenet)))


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


def _pack(options: argparse.Namespace) -> None:
    from scanside.training.default import pack_run

    _say(str(pack_run(options.folder, options.cohort, options.out, name=options.name, version=options.version)))


def _default(options: argparse.Namespace) -> None:
    from scanside.training.default import train_default

    if not options.seeds:
        raise UsageError("no seeds", expected="FIRST:LAST with LAST above FIRST")
    _flush_denormals()
    _say(
        str(
            train_default(
                options.out,
                busbra=options.busbra,
                imagenet=options.imagenet,
                seed=options.seed,
                phantom_seeds=options.seeds,
                lesions=options.lesions,
                workers=options.workers,
            )
        )
    )


def _flush_denormals() -> None:
    """Denormal floats cost a CPU run up to several times; this process does nothing but train."""
    import torch

    torch.set_flush_denormal(True)
