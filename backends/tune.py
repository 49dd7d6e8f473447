"""The record of schedules that were measured: a readable JSON file, shared by all models.

    {"version": "3f2a...",                                       of our sources: what was measured of other code counts no more
     "targets": {"x86-64-v4": {"f32[n,512] = matmul(f32[n,784], f32[784,512])":
                                 {"tile": [6, 4], "us": 21.3, "first": [12, 2], "first_us": 24.0}}}}

`tile` is rows and vectors of the best schedule, `first` those of the first guess, which stands there too where it is the best.  The
file is in the cache folder, or where OCTAVO_TUNE says; it appears whole, by renaming, and a damaged one is ignored with a warning.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ir import config
from ..ir.files import replacing
from .cpu.build import sources
from .lower.schedule import Schedule, Schedules
from .target import Target

FLOORS = ("ir", "backends")  # whose sources decide how fast a schedule is


@dataclass(frozen=True)
class Tuned:
    """What was measured of a contraction: the best schedule and the first guess, with microseconds of a call."""

    best: Schedule
    us: float
    first: Schedule
    first_us: float

    @property
    def ratio(self) -> float:
        """The time of the first guess over that of the best."""
        return self.first_us / self.us


def recorded(target: Target) -> dict[str, Tuned]:
    """What the record has of a target, by signature.  A damaged record is none, with a warning."""
    path = config.tune_file()
    if path is None:
        return {}
    return _read(path).get(target.name, {})


def schedules(target: Target) -> Schedules:
    """The best schedule of every contraction that the record has for a target, by signature."""
    return {text: tuned.best for text, tuned in recorded(target).items()}


def remember(target: Target, found: Mapping[str, Tuned]) -> None:
    """Add to the record.  Raises OSError where the file cannot be written; nothing happens where none is kept."""
    path = config.tune_file()
    if path is None or not found:
        return
    targets = _read(path)
    targets[target.name] = {**targets.get(target.name, {}), **found}
    data = {"version": sources(*FLOORS), "targets": {name: {k: _entry(t[k]) for k in sorted(t)} for name, t in sorted(targets.items())}}
    with replacing(path) as temporary:
        temporary.write_text("".join(_lines(data)))


def _entry(t: Tuned) -> dict[str, Any]:
    return {"tile": list(t.best.tile), "us": round(t.us, 2), "first": list(t.first.tile), "first_us": round(t.first_us, 2)}


def _lines(data: Mapping[str, Any]) -> Iterator[str]:
    """The record as JSON, a contraction on each line."""
    yield f'{{"version": {json.dumps(data["version"])},\n "targets": {{'
    for k, (name, entries) in enumerate(data["targets"].items()):
        rows = (f"   {json.dumps(text)}:\n     {json.dumps(entry)}" for text, entry in entries.items())
        yield f"{',' if k else ''}\n  {json.dumps(name)}: {{\n" + ",\n".join(rows) + "}"
    yield "}}\n"


def _read(path: Path) -> dict[str, dict[str, Tuned]]:
    """Target -> signature -> what was measured; empty where there is no file, or one of another version."""
    try:
        data = json.loads(path.read_bytes())
        if data["version"] != sources(*FLOORS):
            return {}
        return {str(name): {str(k): _tuned(e) for k, e in entries.items()} for name, entries in data["targets"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        warnings.warn(f"the record of tuned schedules {path} is damaged and ignored ({e}); remove it", stacklevel=2)
        return {}


def _tuned(entry: Any) -> Tuned:
    best, first = Schedule(*entry["tile"]), Schedule(*entry["first"])
    us, first_us = float(entry["us"]), float(entry["first_us"])
    if not (best.is_sane and first.is_sane and us > 0 and first_us > 0):
        raise ValueError(f"no target has a schedule or a time as in {entry}")
    return Tuned(best, us, first, first_us)
