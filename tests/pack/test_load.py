"""A damaged pack gives one clear error that names the file; nothing unlisted or foreign is ever read."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, load_from_string

from scanside.errors import PackError
from scanside.pack import DEFAULT_PACK, Pack, load_pack
from scanside.pack import load as load_module


def relist(pack: Path, name: str) -> None:
    """Make the manifest agree with what now lies in file `name`."""
    content = json.loads((pack / "manifest.json").read_text(encoding="utf-8"))
    data = (pack / name).read_bytes()
    content["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (pack / "manifest.json").write_text(json.dumps(content), encoding="utf-8")


def refusal(folder: Path) -> str:
    with pytest.raises(PackError) as caught:
        load_pack(folder)
    assert caught.value.exit_code == 4
    return str(caught.value)


def test_a_whole_pack_loads(tiny_pack: Path) -> None:
    pack = load_pack(tiny_pack)
    assert (pack.manifest.name, pack.manifest.classifier.size) == ("tiny", 32)
    assert pack.graph_bytes("segmenter") == (tiny_pack / "segmenter.onnx").read_bytes()
    assert pack.graph_bytes("classifier.onnx") == pack.graph_bytes("classifier")
    assert len(pack.sha256) == 64
    assert "malignant" in (pack.card() or "")
    assert load_pack(str(tiny_pack)).sha256 == pack.sha256


def test_every_changed_byte_is_named_with_both_hashes(tiny_pack_copy: Path) -> None:
    for name in load_pack(tiny_pack_copy).manifest.files:
        file = tiny_pack_copy / name
        whole = file.read_bytes()
        for position in (0, len(whole) // 2, len(whole) - 1):
            changed = bytearray(whole)
            changed[position] ^= 1
            file.write_bytes(changed)
            message = refusal(tiny_pack_copy)
            assert f"{name}: the file was changed" in message
            assert hashlib.sha256(whole).hexdigest() in message
            assert hashlib.sha256(changed).hexdigest() in message
        file.write_bytes(whole)
    load_pack(tiny_pack_copy)


def test_a_missing_and_a_resized_file_are_named(tiny_pack_copy: Path) -> None:
    file = tiny_pack_copy / "classifier.onnx"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes() + b"\0")
    assert f"classifier.onnx: the file has another size; expected {size} bytes, found {size + 1} bytes" in refusal(
        tiny_pack_copy
    )
    file.unlink()
    assert "classifier.onnx: the file is missing" in refusal(tiny_pack_copy)


def test_no_pack_at_all(tmp_path: Path, tiny_pack: Path) -> None:
    assert "no model pack here; expected a folder, found nothing" in refusal(tmp_path / "absent")
    assert "expected a folder, found a file" in refusal(tiny_pack / "manifest.json")
    assert "no model pack here; expected manifest.json, found none" in refusal(tmp_path)


def test_without_a_shipped_pack_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert DEFAULT_PACK.parts[-3:] == ("scanside", "pack", "default")
    monkeypatch.setattr(load_module, "DEFAULT_PACK", tmp_path / "default")
    with pytest.raises(PackError, match=r"no model pack.*--pack"):
        load_pack()


def test_the_shipped_pack_is_the_default(monkeypatch: pytest.MonkeyPatch, tiny_pack: Path) -> None:
    monkeypatch.setattr(load_module, "DEFAULT_PACK", tiny_pack)
    assert load_pack().manifest.name == "tiny"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "scanside-pack/9"}, "unknown schema version; expected scanside-pack/1, found scanside-pack/9"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"name": 5}, "name: wrong type; expected a string"),
    ],
)
def test_a_foreign_manifest_is_refused(tiny_pack_copy: Path, change: dict[str, Any], message: str) -> None:
    file = tiny_pack_copy / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    assert message in refusal(tiny_pack_copy)


def test_broken_and_oversized_manifests_are_refused(tiny_pack_copy: Path) -> None:
    file = tiny_pack_copy / "manifest.json"
    file.write_bytes(file.read_bytes()[:-20])
    assert "manifest.json: broken JSON" in refusal(tiny_pack_copy)
    file.write_bytes(b" " * (load_module.MAX_MANIFEST_BYTES + 1))
    assert "the manifest is too large" in refusal(tiny_pack_copy)


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="needs symbolic links")
def test_a_link_or_a_folder_in_a_file_s_place_is_refused(tiny_pack_copy: Path, tmp_path: Path) -> None:
    file = tiny_pack_copy / "segmenter.onnx"
    outside = file.rename(tmp_path / "elsewhere.onnx")
    file.symlink_to(outside)
    assert "segmenter.onnx: not a plain file" in refusal(tiny_pack_copy)
    file.unlink()
    file.mkdir()
    assert "segmenter.onnx" in refusal(tiny_pack_copy)
    file.rmdir()
    os.mkfifo(file)
    assert "segmenter.onnx: not a plain file" in refusal(tiny_pack_copy)


def test_unlisted_files_are_never_opened(tiny_pack_copy: Path) -> None:
    identity = load_pack(tiny_pack_copy).sha256
    (tiny_pack_copy / "stray.onnx").write_bytes(b"anything")
    pack = load_pack(tiny_pack_copy)
    assert pack.sha256 == identity
    with pytest.raises(PackError, match=r"'stray\.onnx' is not listed"):
        pack.graph_bytes("stray.onnx")
    with pytest.raises(PackError, match="is not listed"):
        pack.file_bytes("../pack/segmenter.onnx")


def test_a_graph_with_external_data_is_refused_though_its_hash_is_right(tiny_pack_copy: Path) -> None:
    file = tiny_pack_copy / "segmenter.onnx"
    model = load_from_string(file.read_bytes())
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../secret")
    file.write_bytes(model.SerializeToString())
    relist(tiny_pack_copy, "segmenter.onnx")
    assert "segmenter.onnx: the graph keeps data in another file" in refusal(tiny_pack_copy)


def test_a_graph_changed_after_loading_is_not_handed_out(tiny_pack_copy: Path) -> None:
    pack: Pack = load_pack(tiny_pack_copy)
    file = tiny_pack_copy / "segmenter.onnx"
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    with pytest.raises(PackError, match="the file was changed"):
        pack.graph_bytes("segmenter")
