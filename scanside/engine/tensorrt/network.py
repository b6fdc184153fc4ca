"""A strongly typed TensorRT network from ONNX bytes: refusals name the node, and 8-bit weights are unfolded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scanside.engine.tensorrt.module import TensorRt
from scanside.engine.tensorrt.plan import BuildOptions, Layer
from scanside.errors import EngineError

_SHOWN_ERRORS = 3


@dataclass
class Network:
    """A parsed network, and what must outlive it: the parser and the unfolded weights that it points into."""

    network: Any
    layers: tuple[Layer, ...]
    folded_weights: int = 0
    kept: list[Any] = field(default_factory=list)


def parse(trt: TensorRt, builder: Any, logger: Any, graph: bytes, *, where: str) -> Network:
    """Parse `graph` and unfold the weights that are 8-bit only to be small.

    Raises
    ------
    EngineError
        TensorRT refuses the graph; the message names the nodes.
    """
    network = builder.create_network(trt.network_flags)
    parser = trt.api.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise EngineError(
            f"{trt.name} {trt.version} refuses the graph",
            where=where,
            found="; ".join(_said(error) for error in errors[:_SHOWN_ERRORS]) or "no reason given",
            remedy="run the graph with ONNX Runtime (--device cpu), or export it without these nodes",
        )
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    described = tuple(_described(layer) for layer in layers)
    kept: list[Any] = [parser]
    folded = 0
    if not any(layer.type == trt.api.LayerType.QUANTIZE for layer in layers):
        folded = _unfold_weights(trt, network, layers, kept)
    return Network(network, described, folded, kept)


def add_profiles(builder: Any, config: Any, network: Any, options: BuildOptions, *, where: str) -> None:
    """Give `config` the optimisation profiles of `options`.

    Raises
    ------
    EngineError
        A profile does not name the network's inputs, or does not fit them.
    """
    names = {network.get_input(i).name for i in range(network.num_inputs)}
    for profile in options.profiles:
        if set(profile.shapes) != names:
            raise EngineError(
                "the graph's inputs are not what the manifest says",
                where=where,
                expected=", ".join(sorted(profile.shapes)),
                found=", ".join(sorted(names)),
            )
        made = builder.create_optimization_profile()
        for name, shapes in profile.shapes.items():
            made.set_shape(name, *shapes)
        if config.add_optimization_profile(made) < 0:
            raise EngineError("TensorRT refuses the shapes", where=where, found=str(profile.to_json()))


def _said(error: Any) -> str:
    node = " ".join(filter(None, (_of(error, "node_operator"), repr(_of(error, "node_name") or f"#{error.node()}"))))
    return f"node {node}: {(error.desc() or 'no description').strip().splitlines()[0][:200]}"


def _of(error: Any, name: str) -> str:
    return str(getattr(error, name)()) if hasattr(error, name) else ""


def _described(layer: Any) -> Layer:
    output = layer.get_output(0)
    return Layer(layer.name, layer.type.name.lower(), "" if output is None else output.dtype.name.lower())


def _unfold_weights(trt: TensorRt, network: Any, layers: list[Any], kept: list[Any]) -> int:
    """Replace DequantizeLinear of constant int8 weights by the constant it makes; returns how many.

    A pack keeps weights in 8 bits to be small. Only a graph that also quantizes activations means them as arithmetic;
    in any other the layer would turn the same weights back into floats at every run.
    """
    api = trt.api
    constants = {}
    for layer in layers:
        if layer.type == api.LayerType.CONSTANT:
            layer.__class__ = api.IConstantLayer  # the bindings give every layer as its base class
            constants[layer.get_output(0).name] = layer
    unfolded = {}
    for layer in layers:
        if layer.type != api.LayerType.DEQUANTIZE:
            continue
        layer.__class__ = api.IDequantizeLayer
        weight, scale = (constants.get(layer.get_input(i).name) for i in range(2))
        if weight is None or scale is None:
            continue
        shape = tuple(weight.shape)
        scales = np.asarray(scale.weights)
        along = [-1 if axis == layer.axis else 1 for axis in range(len(shape))] if scales.size > 1 else [1] * len(shape)
        values = np.asarray(weight.weights).reshape(shape).astype(np.float32) * scales.astype(np.float32).reshape(along)
        values = np.ascontiguousarray(values, np.float16 if layer.get_output(0).dtype == api.DataType.HALF else None)
        kept.append(values)
        constant = network.add_constant(shape, api.Weights(values))
        constant.name = f"{layer.name} (unfolded)"
        unfolded[layer.get_output(0).name] = constant.get_output(0)
    for layer in layers:
        for i in range(layer.num_inputs):
            tensor = layer.get_input(i)
            if tensor is not None and tensor.name in unfolded:
                layer.set_input(i, unfolded[tensor.name])
    return len(unfolded)
