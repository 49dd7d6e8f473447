"""The six environment variables, read in one place and at the time of use, so that a test can set them.

OCTAVO_DUMP=dir      the graph after every pass that changed it, as numbered text files
OCTAVO_DEBUG=1       full tracebacks where the CLI would print one line
OCTAVO_VERIFY=0      no verification after passes (on by default)
OCTAVO_THREADS=n     how many threads a model may use; by default what affinity and cgroup quota allow
OCTAVO_CACHE=dir     where compiled kernels and models are kept, each up to 4 GiB; 0 or empty turns the cache off
OCTAVO_TUNE=file     where the schedules that --tune found are kept; by default in the cache folder
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import OctavoError


def dump_dir() -> Path | None:
    """Where passes write their graphs, or None."""
    value = os.environ.get("OCTAVO_DUMP", "")
    return Path(value) if value else None


def debug() -> bool:
    return _flag("OCTAVO_DEBUG", False)


def verify_passes() -> bool:
    return _flag("OCTAVO_VERIFY", True)


def threads() -> int | None:
    """The number of threads asked for, or None.  Raises OctavoError unless it is a positive integer."""
    value = os.environ.get("OCTAVO_THREADS", "")
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise OctavoError(f"OCTAVO_THREADS={value!r} is not a positive number of threads")
    return int(value)


def cache_dir() -> Path | None:
    """Where compiled kernels and models are kept (by default in the user's cache folder), or None when caching is off."""
    value = os.environ.get("OCTAVO_CACHE")
    if value is None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        return Path(base) / "octavo"
    return Path(value) if value not in ("", "0") else None


def tune_file() -> Path | None:
    """Where schedules that were measured are kept, or None where there is no cache folder either."""
    value = os.environ.get("OCTAVO_TUNE", "")
    folder = cache_dir()
    return Path(value) if value else folder / "schedules.json" if folder else None


def _flag(name: str, default: bool) -> bool:
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise OctavoError(f"{name}={value!r} is neither 0 nor 1")
    return default if not value else value == "1"
