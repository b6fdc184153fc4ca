"""GDCM at arm's length: some damaged streams make it end the process it runs in, so it runs in one of its own."""

from __future__ import annotations

import atexit
import json
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from queue import Empty, LifoQueue
from threading import Timer
from typing import Any

from scanside.errors import ExamReadError
from scanside.exam.readers.dicom_gdcm_child import FAILED

TIMEOUT_S = 120.0
_CHILD = Path(__file__).with_name("dicom_gdcm_child.py")
_idle: LifoQueue[_Worker] = LifoQueue()


def decode_by_gdcm(data: bytes, options: dict[str, Any], size: int) -> bytes:
    """The `size` bytes of one frame's samples, little endian, colour by pixel.

    Called from several threads at once, each is served by a process of its own; processes are kept for the next frame
    and end with this one.

    Raises
    ------
    ExamReadError
        The stream is damaged, takes longer than `TIMEOUT_S`, or the process cannot be started.
    """
    try:
        worker = _idle.get_nowait()
    except Empty:
        worker = _Worker()
    try:
        samples = worker.ask(data, options, size)
    except BaseException:
        worker.close()
        raise
    _idle.put(worker)
    if samples is None:
        raise ExamReadError("a frame cannot be decoded", found="a damaged stream")
    return samples


class _Worker:
    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise ExamReadError("the JPEG Lossless decoder cannot be started", found=error.strerror) from error

    def ask(self, data: bytes, options: dict[str, Any], size: int) -> bytes | None:
        """The samples, or None when the stream cannot be decoded."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        question = json.dumps(options).encode()
        guard = Timer(TIMEOUT_S, self._process.kill)
        guard.start()
        try:
            stdin.write(struct.pack("<II", len(question), len(data)) + question + data)
            stdin.flush()
            head = stdout.read(4)
            if len(head) < 4:
                raise OSError("the decoder ended")
            (length,) = struct.unpack("<I", head)
            if length == FAILED:
                return None
            answer = stdout.read(length) if length == size else b""
        except OSError as error:
            raise ExamReadError("a frame cannot be decoded", found="a stream its decoder broke down on") from error
        finally:
            guard.cancel()
        if len(answer) != size:
            raise ExamReadError("a frame decodes to another size", expected=f"{size} bytes", found=f"{length} bytes")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


@atexit.register
def _close_idle() -> None:
    while True:
        try:
            _idle.get_nowait().close()
        except Empty:
            return
