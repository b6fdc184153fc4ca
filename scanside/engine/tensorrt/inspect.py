"""What a plan of ours holds: from its sidecar without a GPU, and from TensorRT's engine inspector with one."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanside.engine.capabilities import tensorrt_runtime
from scanside.engine.tensorrt.cache import PlanCache
from scanside.engine.tensorrt.module import require
from scanside.engine.tensorrt.plan import StoredPlan

SCHEMA = "scanside-plan-inspect/1"


@dataclass(frozen=True)
class PlanInspection:
    """A plan, its parsed layers counted by (kind, output type), and the layers it was fused into.

    `engine_layers` is what the engine inspector says, one JSON value a layer; empty without a GPU, and `remark` says
    why.
    """

    plan: StoredPlan
    counts: dict[tuple[str, str], int]
    engine_layers: tuple[Any, ...]
    remark: str

    @property
    def quantize_pairs(self) -> tuple[int, int]:
        """QuantizeLinear and DequantizeLinear layers of the graph that stayed."""
        kinds = Counter(layer.kind for layer in self.plan.record.layers)
        return kinds["quantize"], kinds["dequantize"] - self.plan.record.folded_weights

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict: schema, plan, key, build, counts[{kind, type, count}], engine_layers, remark."""
        content = self.plan.to_json()
        return {
            **content,
            "schema": SCHEMA,
            "counts": [{"kind": kind, "type": dtype, "count": n} for (kind, dtype), n in self.counts.items()],
            "quantize": self.quantize_pairs[0],
            "dequantize": self.quantize_pairs[1],
            "engine_layers": list(self.engine_layers),
            "remark": self.remark,
        }


def inspect_plan(path: Path, cache: PlanCache | None = None) -> PlanInspection:
    """Look at the plan file at `path`, which must lie in `cache` (this user's if None).

    Raises
    ------
    EngineError
        There is no such plan, it is of unknown origin, or it was changed: it is not opened then.
    """
    cache = cache or PlanCache()
    plan = cache.described(path)
    data = cache.read(plan)
    counts = Counter((layer.kind, layer.type) for layer in plan.record.layers)
    layers, remark = _engine_layers(plan, data)
    return PlanInspection(plan, dict(counts.most_common()), layers, remark)


def _engine_layers(plan: StoredPlan, data: bytes) -> tuple[tuple[Any, ...], str]:
    runtime, remark = tensorrt_runtime()
    if not runtime:
        return (), f"the fused layers need a GPU: {remark}"
    trt = require()
    if (trt.name, trt.version) != (plan.key.module, plan.key.module_version):
        return (
            (),
            f"the fused layers need {plan.key.module} {plan.key.module_version}, here is {trt.name} {trt.version}",
        )
    from scanside.engine.cuda import shared_device
    from scanside.engine.tensorrt.session import Engine

    with closing(Engine(trt, shared_device(), data, where=plan.path.name)) as engine:
        return tuple(json.loads(engine.information()).get("Layers", ())), ""
