"""The process that `bench cold` starts: load a pack, segment a section, print when each part was done, as JSON.

Nothing but the standard library is imported before the first stamp, so that each part is counted where it belongs.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def _now_ms() -> float:
    return time.monotonic() * 1e3


def stamped(how: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of the monotonic clock at the end of each part, the conditions, and peak memory."""
    stamps = [_now_ms()]
    import numpy as np
    import onnxruntime  # noqa: F401 - counted here, not where networks are loaded

    import scanside
    from scanside.bench.machine import peak_memory_mib
    from scanside.bench.plan import conditions_of
    from scanside.engine.sections import padded_shape
    from scanside.exam.geometry import Geometry
    from scanside.exam.phantom.make import STANDARD_EXTENT_MM, STANDARD_SHAPE
    from scanside.exam.planes import Plane, SectionGrid
    from scanside.pack import load_pack

    stamps.append(_now_ms())
    pack = load_pack(how.pop("pack"))
    stamps.append(_now_ms())
    predictor = scanside.load(pack, **how)
    stamps.append(_now_ms())
    spec = predictor.segmenter.spec
    spacing = tuple(e / n for e, n in zip(STANDARD_EXTENT_MM, STANDARD_SHAPE, strict=True))
    grid = SectionGrid.over(Geometry(STANDARD_SHAPE, spacing), Plane.TRANSVERSE, spec.pitch_mm, spec.every_mm)  # type: ignore[arg-type]
    frame = np.random.default_rng(0).integers(0, 256, STANDARD_SHAPE[1:], dtype=np.uint8)
    pixels = np.zeros((1, 1, *padded_shape(grid.shape, spec.size_multiple)), np.uint8)
    grid.section_of(frame, out=pixels[0, 0])
    predictor.segmenter.run(pixels, np.empty_like(pixels))
    stamps.append(_now_ms())
    return {"stamps_ms": stamps, "conditions": conditions_of(predictor), "peak_rss_mib": peak_memory_mib()}


def main() -> None:
    """The answer on stdout: one line of JSON."""
    from scanside.errors import ScansideError

    try:
        said = stamped(json.loads(sys.argv[1]))
    except ScansideError as error:
        said = {"error": str(error), "exit_code": error.exit_code}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
