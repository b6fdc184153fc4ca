"""One export for all tests here: the segmenter's first three stages and a fusion2 of shallow branches, as a pack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from scanside.export import PackParameters, create_pack
from scanside.models import FusionClassifier, Segmenter
from scanside.models.fusion import PLANES
from scanside.pack import Licence, Pack, load_pack

SIZE = 32


@dataclass(frozen=True)
class Exported:
    """The networks, what they were shown, and the pack made of them."""

    segmenter: Segmenter
    classifier: FusionClassifier
    sections: list[np.ndarray]
    triplets: list[dict[str, np.ndarray]]
    pack: Pack


@pytest.fixture(scope="session")
def exported(shallow: str, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    segmenter = Segmenter(
        "efficientnet-b0",
        encoder_weights=None,
        encoder_depth=3,
        decoder_channels=(32, 16, 8),
        in_channels=1,
        classes=1,
    )
    segmenter.set_normalisation(0.4, 0.25)
    segmenter.eval()
    classifier = FusionClassifier(shallow).eval()
    with torch.no_grad():  # answers far enough apart to tell crops from one another
        classifier.classify.weight *= 10
    sections = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((2, 1, 32, 96), (1, 1, 64, 64))]
    brightness = {"transverse": (0, 256), "sagittal": (0, 90), "coronal": (150, 256)}
    triplets = [{plane: rng.integers(*brightness[plane], (3, 1, SIZE, SIZE), dtype=np.uint8) for plane in PLANES}]
    for crops in triplets[0].values():
        crops[1] //= 2
        crops[2] = 255 - crops[2]
    out = create_pack(
        tmp_path_factory.mktemp("export") / "pack",
        segmenter=segmenter,
        classifier=classifier,
        name="random",
        version="0",
        sections=sections,
        triplets=triplets,
        provenance={"seed": 0},
        licences=[Licence("weights", "Apache-2.0")],
        parameters=PackParameters(crop_size=SIZE, threshold=0.4),
        card="# Random weights\n",
    )
    return Exported(segmenter, classifier, sections, triplets, load_pack(out))
