"""Data sets as users have them, brought to one shape: pictures with masks, and files of cut volumes."""

from scanside.training.datasets.open import DataSet, open_data
from scanside.training.datasets.pictures import Picture, checked_pair

__all__ = ["DataSet", "Picture", "checked_pair", "open_data"]
