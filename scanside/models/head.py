"""The layers behind the pooled features: linear ones with a ReLU between each two, so their gradient is written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Head:
    """From the fused, pooled features of one or more planes to two logits.

    Parameters
    ----------
    halve : Module
        `Linear` and `ReLU` over the channels, or `Identity`.
    tail : Module
        `Linear`, `ReLU` and `Dropout` in turn, or `Identity`.
    classify : Linear
        The last layer.
    """

    halve: nn.Module
    tail: nn.Module
    classify: nn.Linear

    def logits(self, fused: Tensor) -> Tensor:
        """Logits [N, 2] from pooled features [N, C] or [N, C, grid, grid]."""
        halved = _over_channels(self.halve, fused)
        return self.classify(self.tail(halved.flatten(1)))

    def logits_and_gradient(self, fused: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The logits, and the function from weights [N, 2] to the gradient of the weighted logits at `fused`.

        As in evaluation: without dropout. A ReLU passes a gradient where its output is positive, and every other layer
        passes it through its transposed weights; nothing else is needed, so this exports as a few small products.
        """
        halved = _over_channels(self.halve, fused)
        outputs = [halved.flatten(1)]
        layers = [layer for layer in self.tail.modules() if isinstance(layer, nn.Linear)]
        for layer in layers:
            outputs.append(torch.relu(layer(outputs[-1])))

        def gradient(weights: Tensor) -> Tensor:
            passed = weights @ self.classify.weight
            for layer, output in zip(reversed(layers), reversed(outputs), strict=False):
                passed = (passed * _positive(output)) @ layer.weight
            passed = passed.reshape(halved.shape)
            if isinstance(self.halve, nn.Sequential):
                weight = cast(nn.Linear, self.halve[0]).weight
                passed = _over_channels(lambda x: x @ weight, passed * _positive(halved))
            return passed

        return self.classify(outputs[-1]), gradient


def _over_channels(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of the last axis, applied to the channels (axis 1)."""
    return function(x) if x.ndim == 2 else function(x.movedim(1, -1)).movedim(-1, 1)


def _positive(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)
