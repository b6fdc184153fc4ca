"""What a results file says of its making."""

from __future__ import annotations

import pytest

from benchmarks.record import command, source_tree


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("exam --rounds 3 --out /home/me/results --policy exact", "exam --rounds 3 --policy exact"),
        ("exam --work=/home/me/work --rounds 3", "exam --rounds 3"),
        ("compare main --pack ../pack", "compare main"),
        ("", ""),
    ],
)
def test_no_folder_of_this_machine_is_recorded(words: str, said: str) -> None:
    assert command(words.split()) == f"python -m benchmarks {said}".strip()


def test_the_source_has_a_name() -> None:
    assert source_tree() == source_tree() != ""
