"""Bytes of a file, whatever it is packed in: plain, gzip (several members) or zstandard (several frames, skippable ones too).

The packing is seen from the first bytes, not from the name. A stream that ends in the middle of a member or frame raises `Truncated`:
zstandard's own stream reader ends silently there, so frames are followed by hand.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

BLOCK = 1 << 20
BOM = b"\xef\xbb\xbf"


class Truncated(Exception):
    """A packed stream that ends before its end, or is damaged; the message says which."""


def blocks(path: Path, at: Callable[[int], None] = lambda place: None) -> Iterator[bytes]:
    """Unpacked bytes in blocks of about 1 MB, none empty; before each, `at` gets the place in the packed file.

    Raises Truncated after the last good block, OSError as `open` does.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic[:2] == b"\x1f\x8b":
            unpacked = _gzip_blocks(file)
        elif magic == b"\x28\xb5\x2f\xfd" or (len(magic) == 4 and magic[1:] == b"\x2a\x4d\x18" and 0x50 <= magic[0] <= 0x5F):
            unpacked = _zstd_blocks(file)
        else:
            unpacked = iter(lambda: file.read(BLOCK), b"")
        for block in unpacked:
            at(file.tell())
            yield block


def _gzip_blocks(packed: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=packed) as file:
        while True:
            try:
                block = file.read1(BLOCK)
            except EOFError:
                raise Truncated("the gzip stream ends in the middle") from None
            except (gzip.BadGzipFile, zlib.error) as error:
                raise Truncated(f"the gzip stream is damaged ({error})") from None
            if not block:
                return
            yield block


def _zstd_blocks(file: BinaryIO) -> Iterator[bytes]:
    unpacker = zstandard.ZstdDecompressor(max_window_size=2**31)
    frame = None
    while packed := file.read(BLOCK // 8):
        while packed:
            frame = frame or unpacker.decompressobj()
            try:
                block = frame.decompress(packed)
            except zstandard.ZstdError as error:
                raise Truncated(f"the zstandard stream is damaged ({error})") from None
            packed = b""
            if frame.eof:
                packed, frame = frame.unused_data, None
            if block:
                yield block
    if frame is not None:
        raise Truncated("the zstandard stream ends in the middle")


def lines(stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(byte offset in the unpacked stream, line with its end), cut at \\n, \\r\\n and \\r only; a byte order mark at the start is dropped.

    U+0085 and U+2028 are no line ends here: in JSON and in most text files they stand inside a line.
    """
    rest: list[bytes] = []
    offset = 0
    first = True
    for block in stream:
        if b"\n" not in block and b"\r" not in block:
            rest.append(block)
            continue
        pieces = b"".join([*rest, block]).splitlines(keepends=True)
        rest = [pieces.pop()] if not pieces[-1].endswith(b"\n") else []
        for piece in pieces:
            start, offset = offset, offset + len(piece)
            yield start, piece.removeprefix(BOM) if first else piece
            first = False
    for piece in b"".join(rest).splitlines(keepends=True):
        start, offset = offset, offset + len(piece)
        yield start, piece.removeprefix(BOM) if first else piece
        first = False
