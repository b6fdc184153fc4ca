"""Open a model pack: every listed file is hashed before anything parses it, and no other file is ever read."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from scanside.errors import PackError
from scanside.pack.derive import derived_graph, has_activation_rounding
from scanside.pack.external_data import refuse_external_data
from scanside.pack.manifest import MANIFEST_NAME, Manifest
from scanside.pack.onnx_graph import Graph

DEFAULT_PACK = Path(__file__).parent / "default"
"""Where the shipped pack lies inside the package."""
MAX_MANIFEST_BYTES = 4 * 2**20

# A link is refused, and a pipe in a file's place must not block; both flags are absent on Windows.
_OPEN_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
_REINSTALL = "the pack is damaged or incomplete: install it again"


@dataclass(frozen=True)
class Pack:
    """A pack whose files were found whole.

    `sha256` is the pack's identity: the hash of the manifest's content without its certificates (the manifest holds
    the hash of every other file).
    """

    path: Path
    manifest: Manifest
    sha256: str

    def file_bytes(self, name: str) -> bytes:
        """The content of a listed file, verified again on the very bytes that are returned.

        Raises
        ------
        PackError
            The file is not listed, gone, or not what the manifest says.
        """
        if name not in self.manifest.files:
            raise PackError(f"{name!r} is not listed in the manifest", where=self.path)
        record = self.manifest.files[name]
        data = _read(self.path / name, record.bytes)
        found = hashlib.sha256(data).hexdigest()
        if found != record.sha256:
            raise PackError(
                "the file was changed",
                where=self.path / name,
                expected=f"sha256 {record.sha256}",
                found=found,
                remedy=_REINSTALL,
            )
        return data

    def graph_bytes(self, name: str) -> bytes:
        """The verified bytes of a graph, by file name or by network ("segmenter", "classifier").

        Raises
        ------
        PackError
            As `file_bytes`; or the graph keeps data outside its file.
        """
        graphs = {"segmenter": self.manifest.segmenter.graph, "classifier": self.manifest.classifier.graph}
        name = graphs.get(name, name)
        data = self.file_bytes(name)
        refuse_external_data(data, str(self.path / name))
        return data

    def network_graph(self, network: str, precision: str) -> bytes:
        """The graph of "segmenter" or "classifier" in one of `GRAPH_PRECISIONS`, derived from the shipped one.

        Raises
        ------
        PackError
            As `graph_bytes`; the graph cannot be derived (an uncalibrated pack has no int8), or what is derived is not
            what the manifest says.
        """
        stated = next((d for d in self.manifest.derived if (d.network, d.precision) == (network, precision)), None)
        where = f"{self.path}: {network} in {precision}"
        graph = derived_graph(self.graph_bytes(network), precision, stated.keep if stated else (), where=where)
        if stated is not None:
            found = hashlib.sha256(graph).hexdigest()
            if found != stated.sha256:
                raise PackError(
                    "the derived graph is not what the manifest says",
                    where=where,
                    expected=f"sha256 {stated.sha256}",
                    found=found,
                    remedy="calibrate the pack again with this version of scanside",
                )
        return graph

    def network_sha256(self, network: str, precision: str) -> str:
        """What the bytes of `network_graph` hash to; not derived where the manifest states it.

        Raises
        ------
        PackError
            As `network_graph`.
        """
        for derived in self.manifest.derived:
            if (derived.network, derived.precision) == (network, precision):
                return derived.sha256
        return hashlib.sha256(self.network_graph(network, precision)).hexdigest()

    def is_calibrated(self, network: str) -> bool:
        """Whether the shipped graph of `network` rounds activations, so that it has an int8 form.

        Raises
        ------
        PackError
            As `graph_bytes`; or the graph is no ONNX model.
        """
        return has_activation_rounding(Graph(self.graph_bytes(network), f"{self.path}: {network}"))

    def card(self) -> str | None:
        """The model card's text (Markdown), if the pack has one."""
        name = self.manifest.card
        return None if name is None else self.file_bytes(name).decode("utf-8", "replace")


def load_pack(path: str | os.PathLike[str] | None = None) -> Pack:
    """The pack in folder `path`, or the shipped one, with its manifest parsed and every file verified.

    Raises
    ------
    PackError
        No such folder or manifest, broken or foreign JSON, a file missing, changed, of another size or not plain,
        a graph with external data. The message names the file, what was expected and what was found.
    """
    folder = DEFAULT_PACK if path is None else Path(path)
    if path is None and not (folder / MANIFEST_NAME).is_file():
        raise PackError(
            "this installation has no model pack",
            where=folder,
            expected=MANIFEST_NAME,
            remedy="install a release of scanside, which ships one, or name a pack with --pack (pack= in Python)",
        )
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise PackError("no model pack here", where=folder, expected="a folder", found=found, remedy="check --pack")
    if not os.path.lexists(folder / MANIFEST_NAME):
        raise PackError("no model pack here", where=folder, expected=MANIFEST_NAME, found="none", remedy="check --pack")
    manifest, sha256 = Manifest.from_json(_read(folder / MANIFEST_NAME, None))
    pack = Pack(folder, manifest, sha256)
    graphs = {manifest.segmenter.graph, manifest.classifier.graph}
    for name in manifest.files:
        if name in graphs:
            pack.graph_bytes(name)
        else:
            pack.file_bytes(name)
    return pack


def _read(file: Path, size: int | None) -> bytes:
    """The bytes of a plain file of exactly `size` bytes (or at most MAX_MANIFEST_BYTES when None)."""
    try:
        # The open file is what is checked, so that a swap between check and read changes nothing.
        descriptor = os.open(file, _OPEN_FLAGS)
        with open(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PackError("not a plain file", where=file, remedy=_REINSTALL)
            if size is None and status.st_size > MAX_MANIFEST_BYTES:
                expected = f"at most {MAX_MANIFEST_BYTES} bytes"
                raise PackError("the manifest is too large", where=file, expected=expected, found=status.st_size)
            if size is not None and status.st_size != size:
                raise PackError(
                    "the file has another size",
                    where=file,
                    expected=f"{size} bytes",
                    found=f"{status.st_size} bytes",
                    remedy=_REINSTALL,
                )
            return stream.read()
    except FileNotFoundError:
        raise PackError("the file is missing", where=file, expected="a file of the pack", remedy=_REINSTALL) from None
    except OSError as error:
        if os.path.islink(file):
            raise PackError("not a plain file", where=file, found="a symbolic link", remedy=_REINSTALL) from None
        raise PackError("the file cannot be read", where=file, found=error.strerror, remedy=_REINSTALL) from None
