"""The paper's networks in PyTorch: the UNet segmenter and the three-plane fusion classifier (workshop only)."""

from scanside.models.fusion import VARIANTS, FusionClassifier
from scanside.models.keras_weights import load_keras_resnet50
from scanside.models.unet import Segmenter, build_segmenter

__all__ = ["VARIANTS", "FusionClassifier", "Segmenter", "build_segmenter", "load_keras_resnet50"]
