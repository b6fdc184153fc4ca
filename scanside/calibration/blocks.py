"""The blocks of a network: what is kept in higher precision together."""

from __future__ import annotations

import onnx

from scanside.calibration.graph import WEIGHTED, GraphView

_PREFIX = "model."


def blocks_of(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Block name -> its weighted operations, by node name, in the graph's order.

    Weights are named as PyTorch names them: a block is everything up to the last number that another name follows
    ("encoder._blocks.3", "branches.sagittal.layer2.0", "decoder.blocks.1"); a weight with no such number is a block of
    its own ("encoder._conv_stem").
    """
    view = GraphView(model)
    blocks: dict[str, list[str]] = {}
    for node in view.nodes:
        if node.op_type in WEIGHTED:
            stored = view.stored(node.input[1])
            name = node.name if stored is None else _block(stored.name)
            blocks.setdefault(name, []).append(node.name)
    return {name: tuple(nodes) for name, nodes in blocks.items()}


def nodes_of(model: onnx.ModelProto, blocks: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Block name -> every node of it: its operations, and what follows each up to the next block's operations."""
    view = GraphView(model)
    home = {node: block for block, members in blocks.items() for node in members}
    made_in: dict[str, str] = {}
    nodes: dict[str, list[str]] = {block: [] for block in blocks}
    for node in view.nodes:
        block = home.get(node.name) or next((made_in[name] for name in node.input if name in made_in), None)
        if block is not None and node.op_type != "DequantizeLinear":
            nodes[block].append(node.name)
            made_in.update(dict.fromkeys(node.output, block))
    return {name: tuple(members) for name, members in nodes.items()}


def _block(weight: str) -> str:
    parts = weight.removeprefix(_PREFIX).split(".")
    parts = parts[:-1] if parts[-1] in ("int8", "float") else parts
    path = parts[:-1]  # without "weight"
    numbers = [i for i, part in enumerate(path[:-1]) if part.isdigit()]
    return ".".join(path[: numbers[0] + 1] if numbers else path) or weight
