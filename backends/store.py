"""A folder of sealed files: what was expensive to make, to be found again by name, by this process or another.

A file is the digest of its content (64 hex digits), then the content, which therefore begins at a multiple of 64 when it is mapped.
Files appear whole, by renaming; a damaged or truncated one counts as none.  A folder holds a bounded number of bytes: the files that
were not asked for longest go first.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from ..ir.files import replacing

MOST_BYTES = 4 << 30  # of a folder
MOST_FILES = 1 << 15
_SEAL = 64
_PIECE = 4 << 20  # bytes that one thread hashes at a time
_written: dict[Path, int] = {}  # bytes that this process has added to a folder since it last cleared it


def find(path: Path) -> memoryview | None:
    """The content of a file of the store, mapped; it stays whole when the file is replaced or removed."""
    try:
        with path.open("rb") as f:
            if f.read(_SEAL) != digest_of_file(f.fileno(), _SEAL).encode():
                return None
            os.utime(f.fileno())
            return memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))[_SEAL:]
    except (OSError, ValueError):  # there is none; it is empty
        return None


def keep(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    """Store a content, given in parts; a folder that cannot be written is no reason to fail, nor is a content too long for it."""
    size = sum(map(len, parts))
    if size > MOST_BYTES // 4:
        return
    with suppress(OSError):
        with replacing(path) as temporary, temporary.open("w+b") as f:
            f.seek(_SEAL)
            f.writelines(parts)
            f.flush()
            os.pwrite(f.fileno(), digest_of_file(f.fileno(), _SEAL).encode(), 0)
        _clear_sometimes(path.parent, size)


def _clear_sometimes(folder: Path, size: int) -> None:
    """Looking at every file takes time, so it is done once a process, and again after each sixteenth of what a folder may hold."""
    known = _written.get(folder)
    _written[folder] = (known or 0) + size
    if known is None or _written[folder] > MOST_BYTES // 16:
        _written[folder] = 0
        clear(folder)


def clear(folder: Path) -> None:
    """Remove the files that were not asked for longest, until the rest is within the bounds."""
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # another process has removed it
                status = entry.stat(follow_symlinks=False)
                files.append((status.st_mtime_ns, status.st_size, entry.path))
    total, count = sum(size for _, size, _ in files), len(files)
    for _, size, path in sorted(files):
        if total <= MOST_BYTES and count <= MOST_FILES:
            break
        with suppress(OSError):
            os.unlink(path)
        total, count = total - size, count - 1


def digest_of_file(descriptor: int, start: int = 0) -> str:
    """64 hex digits that name what an open file holds from `start` on: SHA-256 over the SHA-256 of its pieces, several at a time."""

    def hashed(at: int) -> bytes:
        return hashlib.sha256(os.pread(descriptor, _PIECE, at)).digest()

    places = range(start, os.fstat(descriptor).st_size, _PIECE)
    if len(places) <= 1:
        digests = list(map(hashed, places))
    else:
        with ThreadPoolExecutor(min(len(places), 8)) as pool:
            digests = list(pool.map(hashed, places))
    return hashlib.sha256(b"".join(digests)).hexdigest()
