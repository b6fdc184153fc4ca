"""The certificates of parity that were made on this user's device: small JSON files in the user's data folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from scanside.engine.folders import DATA_VARIABLE, data_folder
from scanside.errors import OutputError, PackError
from scanside.exam.write import atomic_file
from scanside.pack import Certificate
from scanside.pack.strict import json_object

SCHEMA = "scanside-certificate/1"


def certificate_folder(pack_sha256: str) -> Path:
    """Where the certificates of one pack lie."""
    return data_folder() / "certificates" / pack_sha256[:32]


def own_certificates(pack_sha256: str) -> tuple[tuple[Certificate, ...], tuple[str, ...]]:
    """The certificates made here for this pack, and a remark for each file that is none."""
    found, remarks = [], []
    try:
        files = sorted(certificate_folder(pack_sha256).glob("*.json"))
    except OSError:  # a folder that may not be read has none
        files = []
    for file in files:
        try:
            content = json_object(file.read_bytes(), file.name)
            if content.get("schema") != SCHEMA or content.get("pack_sha256") != pack_sha256:
                raise PackError("of another pack or schema", where=file.name)
            found.append(Certificate.from_json(content.get("certificate"), file.name))
        except (OSError, PackError) as error:
            what = error.what if isinstance(error, PackError) else "cannot be read"
            remarks.append(f"certificate {file.name} is passed over: {what}")
    return tuple(found), tuple(remarks)


def store_certificate(pack_sha256: str, certificate: Certificate) -> Path:
    """Keep a certificate, in the place of an earlier one on the same subject.

    Raises
    ------
    OutputError
        The user's data folder cannot be written.
    """
    subject = (certificate.runtime, certificate.arithmetic, certificate.graph_sha256)
    digest = hashlib.sha256("\n".join(subject).encode()).hexdigest()[:12]
    folder = certificate_folder(pack_sha256)
    file = folder / f"{certificate.network}-{certificate.precision}-{digest}.json"
    content = {"schema": SCHEMA, "pack_sha256": pack_sha256, "certificate": certificate.to_json()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            "the certificate cannot be kept",
            where=folder,
            found=error.strerror,
            remedy=f"choose another folder with {DATA_VARIABLE}",
        ) from None
    with atomic_file(file) as stream:
        stream.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    return file
