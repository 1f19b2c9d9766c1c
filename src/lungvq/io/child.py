"""The process in which untrusted DICOM is taken apart: headers become plain values, pixels become HU.

`lungvq.io.sandbox` starts it, without the rest of the package, and talks to it in lines of JSON: nothing
that comes back can run code in the caller, whatever a hostile file does in here. It limits its own memory
and time before it opens the first file.

One request is one line: ``{"op": "headers", "items": [path, ...]}`` or ``{"op": "pixels", "items": [wire,
...]}``. Each item is answered by one line, and for pixels followed by HU as raw int16 where the line says
``bytes``. A ``wire`` is what a header told of where the pixels lie and how they are stored.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from typing import Any, BinaryIO

from lungvq.io.header import describe, reason_of

try:
    import resource
except ImportError:  # Windows; there only the parent's clock sets a limit
    resource = None  # type: ignore[assignment]


class _Limits:
    """Memory of the process, and time for each item."""

    def __init__(self, memory: int, seconds: int) -> None:
        self.seconds = seconds
        if resource is not None:
            for what, most in (("RLIMIT_AS", memory), ("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 1 << 28)):
                _, hard = resource.getrlimit(getattr(resource, what))
                soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
                resource.setrlimit(getattr(resource, what), (soft, soft))

    def start(self) -> None:
        """Another item, with its own time; SIGXCPU ends the process when it is over."""
        if resource is not None:
            used = resource.getrusage(resource.RUSAGE_SELF)
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            soft = int(used.ru_utime + used.ru_stime) + 1 + self.seconds
            resource.setrlimit(
                resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
            )


def main(settings: dict[str, Any]) -> None:
    """Answer requests until there are no more."""
    # pydicom can fetch examples over the network; without this it cannot, and starts sooner.
    sys.modules["requests"] = None  # type: ignore[assignment]
    limits = _Limits(int(settings["memory"]), int(settings["seconds"]))
    warnings.simplefilter("ignore")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not come between the replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    replies.write(b'{"ready": true}\n')
    replies.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        for item in request["items"]:
            limits.start()
            _answer(request["op"], item, replies)
        replies.flush()


def _answer(op: str, item: Any, replies: BinaryIO) -> None:
    pixels: bytes | memoryview = b""
    try:
        if op == "headers":
            reply = describe(item)
        else:
            from lungvq.io.decode import hu_of  # not needed to read headers

            pixels = hu_of(item).data.cast("B")
            reply = {"bytes": len(pixels)}
    except OSError as error:
        reply = {"unreadable": error.strerror or str(error)}
    except BaseException as error:  # decoders raise nearly anything; a panic in Rust is no Exception
        reply = {"refused": reason_of(error, "decoded"), "limit": isinstance(error, MemoryError)}
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.write(pixels)
    replies.flush()
