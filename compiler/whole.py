"""Whole compiled models in the cache folder: one that was compiled before, for the same targets and sizes, is read instead.

The key is made of what was given (the bytes of an ONNX file, or the text of a graph), the targets, the pinned sizes, the schedules
that were measured for these targets, our own sources and the versions of what they stand on, so that a stale entry cannot exist.  Not
kept: models with weights in files of their own and ops from outside this package, which the key would have to name too.

An entry is the length of a header (64 bytes of digits), the header as JSON, padded to a multiple of 64 bytes, then weights, the
graph's text and object code; the weights stay mapped.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import store
from ..backends.cpu.build import is_ours, sources
from ..backends.runtime.native import NativeProgram, Variant
from ..backends.runtime.signature import Signature
from ..backends.target import Target
from ..backends.tune import schedules
from ..frontend.onnx import has_external_data
from ..ir import config
from ..ir.graph import Graph
from ..ir.text import to_text

_FLOORS = ("ir", "frontend", "passes", "backends", "compiler")
_LINE = 64


def place_of(model: Any, targets: Sequence[Target], dims: Mapping[str, int] | None) -> Path | None:
    """Where the model (anything that `compile` takes) is or would be kept; None for a ModelProto, and where nothing is to be kept."""
    folder = config.cache_dir()
    name = _name(model) if folder and not config.dump_dir() else None  # who dumps passes wants them to run
    if folder is None or name is None:
        return None
    versions = [platform.python_version(), np.__version__, version("onnx")]
    tuned = [sorted((text, s.tile) for text, s in schedules(t).items()) for t in targets]
    meaning = repr((name, list(map(str, targets)), sorted(map(repr, (dims or {}).items())), tuned, sources(*_FLOORS), versions))
    return folder / "models" / hashlib.sha256(meaning.encode()).hexdigest()[:32]


def _name(model: Any) -> str | None:
    """A digest of the model as it was given."""
    if isinstance(model, Graph):
        constants = [node.attrs["value"] for node in model.nodes if node.op == "const"]
        with ThreadPoolExecutor(8) as pool:  # a constant remembers its digest, and the text asks for it
            list(pool.map(lambda constant: constant.digest, constants))
        return hashlib.sha256(to_text(model).encode()).hexdigest()
    if isinstance(model, bytes):
        return hashlib.sha256(model).hexdigest()
    if isinstance(model, str | os.PathLike):
        try:
            with open(model, "rb") as f:
                return store.digest_of_file(f.fileno())
        except (OSError, ValueError):  # the importer says what is wrong with it
            return None
    return None


def find(place: Path) -> NativeProgram | None:
    """The compiled model that is kept there, if there is one."""
    content = store.find(place)
    if content is None:
        return None
    end = _LINE + int(bytes(content[:_LINE]))
    header = json.loads(bytes(content[_LINE:end]))
    pieces = []
    for size in header["sizes"]:
        pieces.append(content[end : end + size])
        end += size
    weights, text, *objects = pieces
    rest = iter(objects)
    variants = [
        Variant(tuple(features), triple, prefix, [bytes(next(rest)) for _ in range(count)], offset)
        for features, triple, prefix, count, offset in header["variants"]
    ]
    signature = Signature.from_json(header["signature"])
    return NativeProgram(header["name"], signature, variants, np.frombuffer(weights, np.uint8), bytes(text).decode())


def keep(place: Path, program: NativeProgram, graph: Graph, model: Any) -> None:
    """Keep a compiled model; `graph` is what was compiled, `model` what it was made of."""
    if not all(is_ours(op) for op in _ops(graph)) or (not isinstance(model, Graph) and has_external_data(model)):
        return
    objects = [data for variant in program.variants for data in variant.objects]
    pieces = [program.weights_array.data, program.graph_text.encode(), *objects]
    header = {
        "name": program.name,
        "signature": program.signature.to_json(),
        "variants": [(v.features, v.triple, v.prefix, len(v.objects), v.weights_offset) for v in program.variants],
        "sizes": list(map(len, pieces)),
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _LINE)
    store.keep(place, [b"%-64d" % len(text), text, *pieces])


def _ops(graph: Graph) -> Iterator[str]:
    """The ops of a graph and of its sub-graphs."""
    pending = [graph]
    while pending:
        for node in pending.pop().nodes:
            yield node.op
            pending += [value for value in node.attrs.values() if isinstance(value, Graph)]
