"""magika: what kind of file is it? Top-1 over files of known kind.

- Source texts: files of 1 kB and more in the source distribution of pygments, whose kind magika's own table of extensions tells. At
  most 16 of an extension; none named .txt or .html, which are all kinds of output and templates there.
- Documents, pictures, sound, archives and data that Python and Pillow write, 14 of each kind, from a fixed seed.

Every third file calibrates, the others are the test.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import time
import wave
import zipfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import PurePosixPath
from xml.etree import ElementTree

import numpy as np

from ..feeds import Feeds
from ..fetch import fetch
from .metrics import share_equal
from .task import SAMPLES, Data, Measure, Requirement, Runs, Task, outputs
from .text import make_page, make_text

MODEL = "magika"
BLOCK, PART, PADDING = 4096, 1024, 256  # bytes read at each end, bytes of each that the network sees, what stands for none
LEAST, MOST, COPIES = 1024, 16, 14
EVERY = 3  # of which one calibrates
UNTOLD = {".txt", ".html"}


@dataclass(frozen=True)
class File:
    data: bytes
    kinds: frozenset[str]  # of which any is right


def load(f32: Runs) -> Data:
    files = fetch(["pygments-source", "magika-config", "magika-types"])
    labels = json.loads(files["magika-config"].read_text())["target_labels_space"]
    table = json.loads(files["magika-types"].read_text())
    kinds: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        for extension in table[label]["extensions"]:
            kinds[f".{extension}"].add(label)
    with tarfile.open(files["pygments-source"]) as archive:
        known = [*_sources(archive, kinds), *_written()]
    others = known[::EVERY][:SAMPLES]
    test = [f for k, f in enumerate(known) if k % EVERY]
    measure = Measure(
        "files",
        "top-1",
        outputs(MODEL, [_feed(f.data) for f in test]),
        lambda given, _: share_equal([labels[y.argmax()] in f.kinds for y, f in zip(given, test, strict=True)], [True] * len(test)),
        Requirement(2 / len(test), "higher", than_f32=True),
    )
    return Data({MODEL: [_feed(f.data) for f in others]}, (measure,))


def _sources(archive: tarfile.TarFile, kinds: dict[str, set[str]]) -> list[File]:
    found: dict[str, list[File]] = defaultdict(list)
    for member in sorted(archive.getmembers(), key=lambda m: m.name):
        extension = PurePosixPath(member.name).suffix
        if extension in kinds and extension not in UNTOLD and member.size >= LEAST and len(found[extension]) < MOST:
            text = archive.extractfile(member)
            if text is not None:
                found[extension].append(File(text.read(), frozenset(kinds[extension])))
    return [f for extension in sorted(found) for f in found[extension]]


def _written() -> list[File]:
    rng = np.random.default_rng(1)
    return [File(write(rng), frozenset({kind})) for kind, write in WRITERS.items() for _ in range(COPIES)]


def _prose(rng: np.random.Generator) -> str:
    return "".join(f"{make_text(rng, 4, 12)}.\n" for _ in range(rng.integers(20, 60)))


def _rows(rng: np.random.Generator) -> list[dict[str, object]]:
    count = int(rng.integers(30, 90))
    return [{"id": k, "name": make_text(rng, 1, 3), "amount": round(float(rng.uniform(0, 900)), 2)} for k in range(count)]


def _picture(kind: str, **options: object) -> Callable[[np.random.Generator], bytes]:
    def write(rng: np.random.Generator) -> bytes:
        buffer = io.BytesIO()
        make_page(rng, 320, 240).save(buffer, kind, **options)
        return buffer.getvalue()

    return write


def _zip(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(3):
            archive.writestr(zipfile.ZipInfo(f"part{k}.txt"), _prose(rng))
    return buffer.getvalue()


def _tar(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for k in range(3):
            text = _prose(rng).encode()
            info = tarfile.TarInfo(f"part{k}.txt")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    return buffer.getvalue()


def _wave(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(16000)
        w.writeframes((8000 * np.sin(np.arange(8000) * rng.uniform(0.05, 0.5))).astype("<i2").tobytes())
    return buffer.getvalue()


def _csv(rng: np.random.Generator) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["id", "name", "amount"])
    writer.writeheader()
    writer.writerows(_rows(rng))
    return buffer.getvalue().encode()


def _xml(rng: np.random.Generator) -> bytes:
    root = ElementTree.Element("orders")
    for row in _rows(rng):
        ElementTree.SubElement(root, "order", {k: str(v) for k, v in row.items()}).text = make_text(rng)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _email(rng: np.random.Generator) -> bytes:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.org", "b@example.org", make_text(rng)
    message.set_content(_prose(rng))
    return message.as_bytes()


def _sqlite(rng: np.random.Generator) -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table orders (id integer primary key, name text, amount real)")
    connection.executemany("insert into orders values (:id, :name, :amount)", _rows(rng))
    connection.commit()
    data = connection.serialize()
    connection.close()
    return data


def _array(rng: np.random.Generator, save: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, rng.standard_normal((40, int(rng.integers(10, 50)))).astype(np.float32))
    return buffer.getvalue()


WRITERS: dict[str, Callable[[np.random.Generator], bytes]] = {
    "txt": lambda rng: _prose(rng).encode(),
    "json": lambda rng: json.dumps(_rows(rng), indent=1).encode(),
    "jsonl": lambda rng: "".join(json.dumps(row) + "\n" for row in _rows(rng)).encode(),
    "csv": _csv,
    "xml": _xml,
    "eml": _email,
    "pickle": lambda rng: pickle.dumps(_rows(rng)),
    "npy": lambda rng: _array(rng, np.save),
    "npz": lambda rng: _array(rng, np.savez),
    "sqlite": _sqlite,
    "gzip": lambda rng: gzip.compress(_prose(rng).encode(), mtime=0),
    "bzip": lambda rng: bz2.compress(_prose(rng).encode()),
    "xz": lambda rng: lzma.compress(_prose(rng).encode()),
    "zip": _zip,
    "tar": _tar,
    "wav": _wave,
    **{kind: _picture(kind) for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp")},
    "pdf": _picture("pdf", creationDate=time.gmtime(0), modDate=time.gmtime(0)),  # it would name the time of writing
}


def _feed(data: bytes) -> Feeds:
    """i32[1, 2048]: the first and the last bytes without the white space around them, padded where there are fewer."""
    first, last = data[:BLOCK].lstrip()[:PART], data[-BLOCK:].rstrip()[-PART:]
    padding = [PADDING] * (2 * PART - len(first) - len(last))
    return {"bytes": np.array([[*first, *padding, *last]], np.int32)}


TASK = Task(MODEL, (MODEL,), "files of known kind from pygments and written by Python; every third one calibrates", load)
