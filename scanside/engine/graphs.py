"""Which graph of a pack a precision runs on a runtime: the one place that chooses among the derived ones."""

from __future__ import annotations

from scanside.errors import PackError
from scanside.pack import Pack


def precisions_of(pack: Pack) -> tuple[str, ...]:
    """The precisions that plans can be built in: fp32, fp16, and int8 of a calibrated pack."""
    try:
        graph_of(pack, "segmenter", "int8", "tensorrt")
    except PackError:
        return ("fp32", "fp16")
    return ("fp32", "fp16", "int8")


def graph_of(pack: Pack, network: str, precision: str, runtime: str) -> bytes:
    """The verified ONNX bytes of `network` ("segmenter", "classifier") in `precision` for `runtime`.

    TensorRT takes every type from the graph, so for it what INT8 leaves is in half precision.

    Raises
    ------
    PackError
        The pack has no such graph, or it is damaged.
    """
    halved = precision == "int8" and runtime.startswith("tensorrt")
    return pack.network_graph(network, "int8-fp16" if halved else precision)
