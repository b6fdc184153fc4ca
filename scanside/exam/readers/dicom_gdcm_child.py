"""Decodes frames with GDCM for another process, one after the other, over standard input and output.

Run as a script by `scanside.exam.readers.dicom_gdcm`; imports nothing of this package. A request is two lengths, the
decoder's options as JSON, and the code stream; the answer a length and the samples, or the length `FAILED`.
"""

import json
import struct
import sys
from typing import Any, BinaryIO

FAILED = 0xFFFFFFFF


def decoded(options: dict[str, Any], data: bytes) -> bytes:
    """The samples of one frame, little endian, colour by pixel."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    syntax = UID(options["transfer_syntax_uid"])
    options = options | {"transfer_syntax_uid": syntax, "decoding_plugin": "gdcm"}
    values, _ = get_decoder(syntax).as_array(encapsulate([data]), index=0, raw=True, **options)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    while len(head := requests.read(8)) == 8:
        n_options, n_data = struct.unpack("<II", head)
        options = json.loads(requests.read(n_options))
        data = requests.read(n_data)
        try:
            answer = decoded(options, data)
        except Exception:
            answers.write(struct.pack("<I", FAILED))
        else:
            answers.write(struct.pack("<I", len(answer)) + answer)
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
