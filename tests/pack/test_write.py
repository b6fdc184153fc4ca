"""A pack is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from scanside.errors import OutputError, PackError
from scanside.pack import Pack, load_pack, write_pack


@pytest.fixture
def source(tiny_pack: Path) -> tuple[Pack, dict[str, bytes]]:
    pack = load_pack(tiny_pack)
    return pack, {name: pack.file_bytes(name) for name in pack.manifest.files}


def test_a_written_pack_is_the_same_pack(source: tuple[Pack, dict[str, bytes]], tmp_path: Path) -> None:
    pack, contents = source
    out = write_pack(tmp_path / "deep" / "pack", contents, pack.manifest)
    assert load_pack(out).sha256 == pack.sha256
    assert {file.name for file in out.iterdir()} == {*contents, "manifest.json"}
    assert [file.name for file in out.parent.iterdir()] == ["pack"]


def test_an_earlier_pack_is_replaced_and_an_empty_folder_filled(
    source: tuple[Pack, dict[str, bytes]], tmp_path: Path
) -> None:
    pack, contents = source
    out = tmp_path / "pack"
    out.mkdir()
    write_pack(out, contents, pack.manifest)
    (out / "stray").write_text("old")
    write_pack(out, contents, pack.manifest)
    assert not (out / "stray").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["pack"]


def test_what_is_no_pack_is_not_replaced(source: tuple[Pack, dict[str, bytes]], tmp_path: Path) -> None:
    pack, contents = source
    (tmp_path / "precious.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "precious.txt"):
        with pytest.raises(OutputError, match="refusing to replace what is no pack"):
            write_pack(out, contents, pack.manifest)
    assert [file.name for file in tmp_path.iterdir()] == ["precious.txt"]


def test_contents_that_the_manifest_does_not_describe_are_refused(
    source: tuple[Pack, dict[str, bytes]], tmp_path: Path
) -> None:
    pack, contents = source
    contents["card.md"] += b"!"
    with pytest.raises(PackError, match="the manifest does not describe these files"):
        write_pack(tmp_path / "pack", contents, pack.manifest)
    assert not any(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_and_keeps_the_old_pack(
    source: tuple[Pack, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack, contents = source
    out = write_pack(tmp_path / "pack", contents, pack.manifest)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_pack(out, contents, pack.manifest)
    assert [file.name for file in tmp_path.iterdir()] == ["pack"]
    assert load_pack(out).sha256 == pack.sha256
