"""Where this user's files lie: certificates in the data folder, what can be made again in the cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

CACHE_VARIABLE = "SCANSIDE_CACHE_DIR"
DATA_VARIABLE = "SCANSIDE_DATA_DIR"


def cache_folder() -> Path:
    """`$SCANSIDE_CACHE_DIR`, else the platform's cache folder (XDG on Linux)."""
    stated = os.environ.get(CACHE_VARIABLE)
    return Path(stated) if stated else user_cache_path("scanside", appauthor=False)


def data_folder() -> Path:
    """`$SCANSIDE_DATA_DIR`, else the platform's data folder (XDG on Linux)."""
    stated = os.environ.get(DATA_VARIABLE)
    return Path(stated) if stated else user_data_path("scanside", appauthor=False)
