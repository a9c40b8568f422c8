"""Decompressing within bounds: a body of 100 kB may stand for one of 100 MB, or of 100 GB."""

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Any

from kombu.compression import decompress, get_decoder

#: The most bytes that a compressed body may unpack to.
MOST_UNPACKED = 32 * 1024 * 1024
#: The most bytes of memory that a body may ask for to be unpacked: the head of an LZMA stream names up to 4 GB.
MOST_MEMORY = 8 * MOST_UNPACKED

#: Kombu's decoders → makes a decoder for one stream, whose ``decompress`` takes a limit.
_DECODERS: dict[Any, Callable[[], Any]] = {
    zlib.decompress: zlib.decompressobj,
    bz2.decompress: bz2.BZ2Decompressor,
    lzma.decompress: lambda: lzma.LZMADecompressor(memlimit=MOST_MEMORY),
}


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

    Raises `UnpacksTooLargeError`, or what the decoder raises. Codecs that the program has registered, and brotli, have
    no limit and are not tried.
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
    return next((make for known, make in _DECODERS.items() if known is decoder), None)
