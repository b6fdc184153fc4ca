"""The plan cache: a private folder of this user, sealed, locked between processes, written atomically, bounded.

A plan is code. So a plan is given out only when its sidecar carries a seal made with this user's own key (an HMAC; the
key never leaves the folder) and its bytes have the sidecar's hash: a plan copied here from elsewhere is never loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import importlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scanside.engine.folders import CACHE_VARIABLE, cache_folder
from scanside.engine.tensorrt.plan import ANY_DRIVER, CURRENT, BuildRecord, PlanKey, StoredPlan
from scanside.errors import EngineError, OutputError
from scanside.exam.write import atomic_file

MAX_BYTES = 8 * 2**30
KERNELS_SUFFIX = ".kernels"
"""Of the file beside a plan that holds what RTX compiled of it."""
_KEY_FILE = "seal.key"
_LOCK_POLL_S = 0.1


class PlanCache:
    """Plans and the caches of TensorRT itself, in one folder.

    Parameters
    ----------
    folder : Path, optional
        Made with mode 0700 at the first write. `$SCANSIDE_CACHE_DIR/plans`, or the platform's cache folder if None.
    max_bytes : int
        The least recently used plans beyond it are removed.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        self.folder = default_folder() if folder is None else folder
        self.max_bytes = max_bytes

    def find(self, key: PlanKey) -> StoredPlan | None:
        """The plan of exactly this key, its bytes not yet checked (see `read`); None when there is none of ours."""
        plan = self._described(self.folder / f"{key.stem}.json")
        return plan if plan is not None and plan.key == key and plan.path.is_file() else None

    def plans(self) -> tuple[StoredPlan, ...]:
        """Every plan of ours, the most recently used first."""
        try:
            sidecars = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        except OSError:
            return ()
        return tuple(plan for path in sidecars if (plan := self._described(path)) is not None)

    def nearest(self, key: PlanKey) -> StoredPlan | None:
        """The plan of the same network and precision that differs from `key` in the fewest fields."""
        alike = [p for p in self.plans() if (p.key.network, p.key.precision) == (key.network, key.precision)]
        return min(alike, key=lambda plan: len(key.differences(plan.key)), default=None)

    def described(self, path: Path) -> StoredPlan:
        """The plan file at `path`, if this cache made it.

        Raises
        ------
        EngineError
            No such file, or a plan without a sidecar of ours: it is never loaded.
        """
        if not path.is_file():
            raise EngineError("no such plan", where=path, remedy=f"`scanside build` puts plans into {self.folder}")
        plan = self._described(path.with_suffix(".json")) if path.parent.resolve() == self.folder.resolve() else None
        if plan is None or plan.path.name != path.name:
            raise EngineError(
                "a plan of unknown origin: it is code, and is not opened",
                where=path,
                expected=f"a plan that `scanside build` made, in {self.folder}",
                found="no sidecar sealed by this user",
                remedy="build it here from its pack with `scanside build`",
            )
        return plan

    def read(self, plan: StoredPlan) -> bytes:
        """The plan's bytes, verified; this counts as a use.

        Raises
        ------
        EngineError
            The file is gone, truncated or changed.
        """
        with self._locked():
            try:
                data = plan.path.read_bytes()
            except OSError as error:
                raise _damaged(plan, error.strerror or "unreadable") from None
            if len(data) != plan.bytes:
                raise _damaged(plan, f"{len(data)} bytes", f"{plan.bytes} bytes")
            found = hashlib.sha256(data).hexdigest()
            if found != plan.sha256:
                raise _damaged(plan, f"sha256 {found[:16]}", f"sha256 {plan.sha256[:16]}")
            with contextlib.suppress(OSError):
                os.utime(plan.path.with_suffix(".json"))
            return data

    def store(self, key: PlanKey, data: bytes, record: BuildRecord, log: Sequence[str]) -> StoredPlan:
        """Keep a plan, its log and its sidecar: all or nothing. Then make room (see `max_bytes`).

        Raises
        ------
        OutputError
            No room, or no permission. An earlier plan of this key is then gone too.
        """
        path = self.folder / f"{key.stem}.plan"
        plan = StoredPlan(key, record, path, len(data), hashlib.sha256(data).hexdigest())
        with self._locked():
            self._remove(path)
            try:
                _write_private(plan.log_path, ("\n".join(log) + "\n").encode())
                _write_private(path, data)
                _write_private(path.with_suffix(".json"), self._sealed(plan.to_json()))
            except BaseException:
                self._remove(path)
                raise
            self._make_room(plan)
        return plan

    @contextlib.contextmanager
    def building(self, key: PlanKey) -> Iterator[None]:
        """Hold the right to build `key`: a second process waits here, and then finds the first one's plan."""
        with self._lock(f"{key.stem}.lock"):
            yield

    @contextlib.contextmanager
    def locked_blob(self, name: str) -> Iterator[bytes]:
        """TensorRT's own cache file `name`, empty when there is none of ours or it is damaged, held until the end."""
        with self._lock(f"{name}.lock"):
            yield self.blob(name)

    def blob(self, name: str) -> bytes:
        """As `locked_blob`, without holding it."""
        try:
            content = (self.folder / name).read_bytes()
        except OSError:
            return b""
        seal, data = content[:32], content[32:]
        return data if hmac.compare_digest(seal, self._seal(data)) else b""

    def store_blob(self, name: str, data: bytes) -> None:
        """Keep `data`, sealed.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        self._made()
        _write_private(self.folder / name, self._seal(data) + data)

    def _described(self, sidecar: Path) -> StoredPlan | None:
        try:
            content = json.loads(sidecar.read_bytes())
            seal = content.pop("seal")
            if not hmac.compare_digest(seal, self._seal(_canonical(content)).hex()):
                return None
            plan = StoredPlan.from_json(content, self.folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return plan if plan.path.with_suffix(".json") == sidecar else None

    def _sealed(self, content: dict[str, Any]) -> bytes:
        seal = self._seal(_canonical(content)).hex()
        return (json.dumps({**content, "seal": seal}, indent=1) + "\n").encode()

    def _seal(self, data: bytes) -> bytes:
        return hmac.new(self._secret(), data, hashlib.sha256).digest()

    def _secret(self) -> bytes:
        file = self.folder / _KEY_FILE
        try:
            if not file.exists():
                with self._lock(f"{_KEY_FILE}.lock"):
                    if not file.exists():
                        _write_private(file, secrets.token_bytes(32))
            return file.read_bytes()
        except OSError as error:
            raise OutputError("the plan cache cannot be read", where=file, found=error.strerror) from None

    def _made(self) -> None:
        """Make the folder, or refuse one that others may write into."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.name == "posix":
                status = self.folder.stat()
                if status.st_uid != os.getuid():
                    raise OutputError("the plan cache belongs to another user", where=self.folder, remedy=_MOVE)
                if stat.S_IMODE(status.st_mode) != 0o700:
                    self.folder.chmod(0o700)
        except OSError as error:
            raise OutputError(
                "the plan cache cannot be made", where=self.folder, found=error.strerror, remedy=_MOVE
            ) from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock("cache.lock"):
            yield

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        FileLock = _part_of_the_extra("filelock").FileLock
        self._made()
        locks = self.folder / "locks"
        locks.mkdir(mode=0o700, exist_ok=True)
        with FileLock(locks / name, mode=0o600, poll_interval=_LOCK_POLL_S):
            yield

    def _make_room(self, kept: StoredPlan) -> None:
        for left in self.folder.glob(".*.part"):  # of a process that was killed: the lock is ours, so none is at work
            left.unlink(missing_ok=True)
        total = 0
        for plan in self.plans():
            total += plan.bytes
            if total > self.max_bytes and plan.path != kept.path:
                total -= plan.bytes
                self._remove(plan.path)

    def _remove(self, path: Path) -> None:
        for suffix in (
            ".json",
            ".plan",
            ".log",
            KERNELS_SUFFIX,
        ):  # the sidecar first: without it the plan does not exist
            path.with_suffix(suffix).unlink(missing_ok=True)


_MOVE = f"choose another folder with {CACHE_VARIABLE}"


def default_folder() -> Path:
    """Where plans of this user lie: `$SCANSIDE_CACHE_DIR/plans`, else the platform's cache folder (XDG on Linux)."""
    return cache_folder() / "plans"


def _part_of_the_extra(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise EngineError(
            f"the plan cache needs {name}", found="not installed", remedy='pip install "scanside[plans]"'
        ) from None


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _write_private(path: Path, data: bytes) -> None:
    with atomic_file(path) as file:
        if os.name == "posix":
            os.fchmod(file.fileno(), 0o600)
        file.write(data)


def _damaged(plan: StoredPlan, found: str, expected: str | None = None) -> EngineError:
    return EngineError(
        "the plan was changed or truncated",
        where=plan.path,
        expected=expected,
        found=found,
        remedy=f"build it again: `{rebuild_command(plan.key)}`",
    )


def rebuild_command(key: PlanKey) -> str:
    """The command that builds a plan of this key."""
    target = CURRENT if key.driver != ANY_DRIVER else "SM" + key.compute_capability.replace(".", "")
    return f"scanside build [PACK] --target {target} --precision {key.precision}"
