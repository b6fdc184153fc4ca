"""What identifies a plan, and what is kept beside it."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from scanside.engine.tensorrt.profiles import Profile

SCHEMA = "scanside-plan/1"
ANY_DRIVER = "any"
"""The driver of a plan built ahead of time: RTX compiles it for the driver it meets."""
CURRENT = "current"


@dataclass(frozen=True)
class BuildOptions:
    """What a build is asked for: shapes, and the most scratch memory in MiB that a kernel may want (None: no limit)."""

    profiles: tuple[Profile, ...]
    workspace_mb: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The options that change a plan, as plain JSON."""
        return {"profiles": [profile.to_json() for profile in self.profiles], "workspace_mb": self.workspace_mb}


@dataclass(frozen=True)
class PlanKey:
    """Everything a plan depends on. Two plans of one key are interchangeable, though not equal byte for byte.

    `graph_sha256` is the hash of the ONNX graph, which holds the precision; `compute_capability` is "8.6"; `driver` is
    its version or "any"; `system` the operating system and processor ("linux-x86_64"); `options` the JSON of
    `BuildOptions`.
    """

    network: str
    precision: str
    graph_sha256: str
    options: str
    module: str
    module_version: str
    compute_capability: str
    driver: str
    system: str

    @property
    def digest(self) -> str:
        """SHA-256 of all fields: the plan's name in the cache."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def stem(self) -> str:
        """File name without suffix: readable, then unique."""
        chip = "sm" + self.compute_capability.replace(".", "")
        return f"{self.network}-{self.precision}-{chip}-{self.module}-{self.digest[:16]}"

    def differences(self, found: PlanKey) -> tuple[str, ...]:
        """One line for each field that differs, this key's value as the expected one."""
        return tuple(
            f"{name} {_told(name, getattr(self, name))} (there: {_told(name, getattr(found, name))})"
            for name in self.fields_apart(found)
        )

    def fields_apart(self, found: PlanKey) -> tuple[str, ...]:
        """The names of the fields that differ."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) != getattr(found, field.name))

    def serves(self, wanted: PlanKey) -> bool:
        """Whether this plan runs what `wanted` is for: only batches and scratch memory may differ."""
        return wanted.fields_apart(self) in ((), ("options",)) and _sizes(self.options) == _sizes(wanted.options)


def plan_key(
    network: str,
    precision: str,
    graph: bytes,
    options: BuildOptions,
    *,
    module: str,
    module_version: str,
    compute_capability: str,
    driver: str,
) -> PlanKey:
    """The key of the plan of `graph` (the ONNX bytes) on this operating system and processor."""
    return PlanKey(
        network=network,
        precision=precision,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        options=json.dumps(options.to_json(), sort_keys=True, separators=(",", ":")),
        module=module,
        module_version=module_version,
        compute_capability=compute_capability,
        driver=driver,
        system=f"{sys.platform}-{platform.machine().lower()}",
    )


@dataclass(frozen=True)
class Layer:
    """One layer of the network a plan was built from: its name, kind and output type as TensorRT's parser saw them."""

    name: str
    kind: str
    type: str


@dataclass(frozen=True)
class BuildRecord:
    """What a build was and took. `activation_bytes` has one number a profile; None where the log states none."""

    seconds: float
    weight_bytes: int | None
    activation_bytes: tuple[int, ...]
    folded_weights: int
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class StoredPlan:
    """A plan in the cache, as its sidecar describes it."""

    key: PlanKey
    record: BuildRecord
    path: Path
    bytes: int
    sha256: str

    @property
    def log_path(self) -> Path:
        """The build's log."""
        return self.path.with_suffix(".log")

    def to_json(self) -> dict[str, Any]:
        """The sidecar's content, without the seal."""
        return {
            "schema": SCHEMA,
            "plan": {"file": self.path.name, "bytes": self.bytes, "sha256": self.sha256},
            "key": {**asdict(self.key), "options": json.loads(self.key.options)},
            "build": {
                **asdict(self.record),
                "layers": [[layer.name, layer.kind, layer.type] for layer in self.record.layers],
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], folder: Path) -> StoredPlan:
        """The plan that a sidecar in `folder` describes.

        Raises
        ------
        KeyError, TypeError, ValueError
            Not a sidecar of this schema.
        """
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        key, build, plan = dict(content["key"]), dict(content["build"]), content["plan"]
        key["options"] = json.dumps(key["options"], sort_keys=True, separators=(",", ":"))
        build["layers"] = tuple(Layer(*row) for row in build["layers"])
        build["activation_bytes"] = tuple(build["activation_bytes"])
        return cls(PlanKey(**key), BuildRecord(**build), folder / plan["file"], int(plan["bytes"]), str(plan["sha256"]))


def _sizes(options: str) -> list[dict[str, list[list[int]]]]:
    """What the profiles of `BuildOptions` in JSON take, the batch axis aside."""
    return [
        {name: [shape[1:] for shape in shapes] for name, shapes in profile.items()}
        for profile in json.loads(options)["profiles"]
    ]


def _told(name: str, value: str) -> str:
    if name == "options":
        options = json.loads(value)
        limit = [] if options["workspace_mb"] is None else [f"workspace {options['workspace_mb']} MiB"]
        return ", ".join([*map(_profile_told, options["profiles"]), *limit])
    return value if len(value) <= 32 else f"#{hashlib.sha256(value.encode()).hexdigest()[:12]}"


def _profile_told(profile: Mapping[str, list[list[int]]]) -> str:
    """Sizes an axis, smallest to largest: "1:8 x 1 x 96 x 256"."""
    inputs = (zip(*shapes, strict=True) for shapes in profile.values())
    texts = (" x ".join(":".join(map(str, dict.fromkeys(axis))) for axis in axes) for axes in inputs)
    return " and ".join(dict.fromkeys(texts))
