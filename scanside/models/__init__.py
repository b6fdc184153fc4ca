"""The paper's networks in PyTorch: the UNet segmenter and the plane and fusion classifiers (workshop only)."""

from scanside.models.backbones import BACKBONES, Branch
from scanside.models.fusion import PLANES_OF, VARIANTS, FusionClassifier
from scanside.models.gradcam import probability_and_heatmaps
from scanside.models.keras_weights import load_keras_resnet50
from scanside.models.unet import Segmenter, build_segmenter

__all__ = [
    "BACKBONES",
    "PLANES_OF",
    "VARIANTS",
    "Branch",
    "FusionClassifier",
    "Segmenter",
    "build_segmenter",
    "load_keras_resnet50",
    "probability_and_heatmaps",
]
