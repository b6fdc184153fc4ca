"""The synthetic ABVS exam (the phantom): no real volume is public, so ours says that it is synthetic."""

from scanside.exam.phantom.make import Phantom, TruthLesion, make_phantom
from scanside.exam.phantom.save import save_phantom, truth_json
from scanside.exam.phantom.speckle import Acquisition

__all__ = ["Acquisition", "Phantom", "TruthLesion", "make_phantom", "save_phantom", "truth_json"]
