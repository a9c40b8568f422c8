"""Decompressing within bounds: a body of 100 kB may stand for one of 100 MB, or of 100 GB."""

import bz2
import codecs
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from kombu.compression import decompress, get_decoder

#: The most bytes that a compressed body may unpack to.
MOST_UNPACKED = 32 * 1024 * 1024
#: The most bytes of memory that a body may ask for to be unpacked: the head of an LZMA stream names up to 4 GB.
MOST_MEMORY = 8 * MOST_UNPACKED

#: Encodings of a message that need no look: kombu's own, and none.
_PLAIN = ("utf-8", "binary", None, "ascii-8bit", "")

#: Kombu's decoders → makes a decoder for one stream, whose ``decompress`` takes a limit.
_DECODERS: dict[Any, Callable[[], Any]] = {
    zlib.decompress: zlib.decompressobj,
    bz2.decompress: bz2.BZ2Decompressor,
    lzma.decompress: lambda: lzma.LZMADecompressor(memlimit=MOST_MEMORY),
}


class _Brotli:
    """A decoder of brotli with the methods of Python's decoders. ``module`` is ``brotli`` or ``brotlicffi``."""

    #: Releases before 1.2 know no limit. They get so many bytes at a time, which can only describe some megabytes.
    PIECE = 8

    unused_data = b""

    def __init__(self, module: Any) -> None:
        self._decoder = module.Decompressor()
        self._pieces: Iterator[bytes] = iter(())

    @property
    def eof(self) -> bool:
        """True at the end of the stream."""
        return bool(self._decoder.is_finished())

    def decompress(self, data: bytes, limit: int) -> bytes:
        """The next bytes, about ``limit`` at most; none at the end of the stream or of ``data``."""
        if hasattr(self._decoder, "can_accept_more_data"):
            return bytes(self._decoder.process(data, output_buffer_limit=limit))
        if data:
            self._pieces = (data[at : at + self.PIECE] for at in range(0, len(data), self.PIECE))
        return next(filter(None, map(self._decoder.process, self._pieces)), b"")


class UnpacksTooLargeError(ValueError):
    """A body that unpacks to more than `MOST_UNPACKED` bytes."""

    def __init__(self) -> None:
        super().__init__(f"it unpacks to more than {MOST_UNPACKED:,} bytes")


def unpacked(body: Any, method: Any) -> Any:
    """The body as kombu's `decompress` returns it. Raises `UnpacksTooLargeError`, or what the decoder raises."""
    check_size(body, method)
    return decompress(body, method)


def check_size(body: Any, method: Any) -> None:
    """
    Unpack a body as far as it may go, and forget the result.

    Raises `UnpacksTooLargeError`, or what the decoder raises. Codecs that the program has registered have no limit, and
    are not tried.
    """
    make, left = _decoder(get_decoder(method)), MOST_UNPACKED + 1
    if make is None or not isinstance(body, bytes):
        return
    while body:  # bz2 and lzma go on with the next stream behind the end of one
        decoder = make()
        given = body
        while some := decoder.decompress(given, left):
            left -= len(some)
            if left <= 0:
                raise UnpacksTooLargeError
            if decoder.eof:
                break
            given = getattr(decoder, "unconsumed_tail", b"")  # the others keep it themselves
        body = decoder.unused_data if decoder.eof and make is not zlib.decompressobj else b""


def _decoder(decoder: Any) -> Callable[[], Any] | None:
    module = getattr(decoder, "__module__", None) or ""
    if "zstd" in module:  # Python 3.14's compression.zstd, and backports.zstd
        made: Callable[[], Any] | None = getattr(sys.modules[module], "ZstdDecompressor", None)
        return made
    for name in ("brotli", "brotlicffi"):
        if decoder is getattr(sys.modules.get(name), "decompress", sys):
            return partial(_Brotli, sys.modules[name])
    return next((make for known, make in _DECODERS.items() if known is decoder), None)


def errors_in(body: Any, headers: Any, encoding: Any) -> list[Any]:
    """
    The reason why kombu must not unpack a message, as `sys.exc_info` gives it; [] if it may.

    Kombu unpacks no message whose ``errors`` are not empty.
    """
    try:
        if encoding not in _PLAIN and _unpacks(encoding):
            raise ValueError(f"{encoding!r} is no encoding of texts")
        if isinstance(headers, dict) and headers.get("compression"):
            check_size(body, headers["compression"])
    except Exception:  # a decoder may raise anything
        return [sys.exc_info()]
    return []


def _unpacks(encoding: Any) -> bool:
    """True for the codecs of Python that turn bytes into bytes, such as ``zlib``."""
    try:
        return not codecs.lookup(encoding)._is_text_encoding
    except Exception:  # kombu will find the same
        return False
