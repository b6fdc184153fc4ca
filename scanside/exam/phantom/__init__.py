"""The synthetic ABVS exam (the phantom): no real volume is public, so ours says that it is synthetic."""

from scanside.exam.phantom.descriptors import Population
from scanside.exam.phantom.lesion_volume import make_lesion
from scanside.exam.phantom.make import Phantom, make_phantom
from scanside.exam.phantom.save import save_phantom, truth_json
from scanside.exam.phantom.scene import TruthLesion
from scanside.exam.phantom.speckle import Acquisition

__all__ = [
    "Acquisition",
    "Phantom",
    "Population",
    "TruthLesion",
    "make_lesion",
    "make_phantom",
    "save_phantom",
    "truth_json",
]
