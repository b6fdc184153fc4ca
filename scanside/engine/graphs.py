"""Which graph of a pack a precision runs: the one place that knows where they come from."""

from __future__ import annotations

from pathlib import PurePath

from scanside.errors import PackError
from scanside.pack import Pack

OWN_GRAPH = ("fp16", "int8")
"""Precisions that are another graph. fp32 and bf16 run the pack's own, whose 8-bit weights unfold at load."""


def graph_name(pack: Pack, network: str, precision: str) -> str:
    """The file of `network` ("segmenter", "classifier") in `precision`: `segmenter.onnx`, `segmenter.fp16.onnx`."""
    manifest = pack.manifest
    own = PurePath({"segmenter": manifest.segmenter.graph, "classifier": manifest.classifier.graph}[network])
    return f"{own.stem}.{precision}{own.suffix}" if precision in OWN_GRAPH else own.name


def precisions_of(pack: Pack) -> tuple[str, ...]:
    """fp32, and those of fp16 and int8 that the pack has graphs of both networks for."""
    names = [[graph_name(pack, network, p) for network in ("segmenter", "classifier")] for p in OWN_GRAPH]
    found = [p for p, files in zip(OWN_GRAPH, names, strict=True) if all(f in pack.manifest.files for f in files)]
    return ("fp32", *found)


def graph_of(pack: Pack, network: str, precision: str) -> bytes:
    """The verified ONNX bytes of `network` in `precision`.

    Raises
    ------
    PackError
        The pack has no such graph, or it is damaged.
    """
    name = graph_name(pack, network, precision)
    if name not in pack.manifest.files:
        raise PackError(
            f"the pack has no {precision} graph of its {network}",
            where=pack.path,
            expected=f"{name} in the manifest",
            found=", ".join(sorted(f for f in pack.manifest.files if f.endswith(".onnx"))),
            remedy="run with precision fp32, or use a pack that was calibrated for it",
        )
    return pack.graph_bytes(name)
