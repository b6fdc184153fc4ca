"""The door from a verb to the workshop, whose packages a scanner-side installation does not have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from scanside.errors import EngineError


@contextmanager
def workshop(verb: str) -> Iterator[None]:
    """Import the workshop inside this block; a package that is not installed becomes one error with the remedy.

    Raises
    ------
    EngineError
        PyTorch or another package of the `train` extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "scanside":
            raise
        raise EngineError(
            f"`scanside {verb}` needs the workshop's packages",
            expected="PyTorch and what the train extra lists",
            found=f"no package {error.name}",
            remedy='pip install "scanside[train]"',
        ) from None
