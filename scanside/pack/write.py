"""Write a pack folder so that it is whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from scanside.errors import OutputError, PackError
from scanside.pack.load import Pack, load_pack
from scanside.pack.manifest import MANIFEST_NAME, Certificate, FileRecord, Manifest
from scanside.pack.strict import json_object


def file_records(contents: Mapping[str, bytes]) -> dict[str, FileRecord]:
    """The manifest's `files` for these contents by file name."""
    return {name: FileRecord(hashlib.sha256(data).hexdigest(), len(data)) for name, data in contents.items()}


def refuse_foreign(out: str | os.PathLike[str]) -> None:
    """Raise unless a pack may be put at `out`: absent, an empty folder, or a pack. Cheap: call it before long work.

    Raises
    ------
    OutputError
        `out` holds something that is no pack.
    """
    out = Path(out)
    if out.exists() and not (out / MANIFEST_NAME).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError("refusing to replace what is no pack", where=out, remedy="name a new or an empty folder")


def write_pack(out: str | os.PathLike[str], contents: Mapping[str, bytes], manifest: Manifest) -> Path:
    """Write `contents` and the manifest to the folder `out`, replacing an earlier pack there, and verify the result.

    Everything is written and synced beside `out` first and then renamed into place.

    Raises
    ------
    PackError
        The manifest does not describe the contents, or does not pass its own checks.
    OutputError
        `out` holds something that is no pack, or cannot be written.
    """
    out = Path(out)
    if file_records(contents) != dict(manifest.files):
        raise PackError("the manifest does not describe these files", where=out)
    refuse_foreign(out)
    replaces = out.exists()
    stage: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        stage.chmod(0o755)
        for name, data in {**contents, MANIFEST_NAME: manifest.to_json()}.items():
            with open(stage / name, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        load_pack(stage)
        if replaces:
            old = stage.with_name(stage.name + "-old")
            out.rename(old)
            stage.rename(out)
            shutil.rmtree(old)
        else:
            stage.rename(out)
    except OSError as error:
        raise OutputError("the pack cannot be written", where=out, found=error.strerror) from None
    finally:
        if stage is not None and stage.exists():
            shutil.rmtree(stage, ignore_errors=True)
    return out


def add_certificates(pack: Pack, certificates: Sequence[Certificate]) -> Pack:
    """Write `certificates` into the pack's manifest, in the place of earlier ones on the same subject.

    The pack's hash stays what it is.

    Raises
    ------
    OutputError
        The manifest cannot be written.
    """
    file = pack.path / MANIFEST_NAME
    kept = [old for old in pack.manifest.certificates if not any(old.same_subject(new) for new in certificates)]
    # The other keys as they stand: an absent one and its default are two hashes.
    content = json_object(file.read_bytes(), MANIFEST_NAME)
    content["certificates"] = [certificate.to_json() for certificate in (*kept, *certificates)]
    temporary = file.with_name(f".{MANIFEST_NAME}.{os.getpid()}.part")
    try:
        with open(temporary, "xb") as stream:
            stream.write((json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError as error:
        raise OutputError("the certificates cannot be written", where=file, found=error.strerror) from None
    finally:
        temporary.unlink(missing_ok=True)
    return load_pack(pack.path)
