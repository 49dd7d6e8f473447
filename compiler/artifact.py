"""A compiled model on disk: `model.octavo/` with code, weights, C header and graph, written whole or not at all.

    manifest.json   what is in the folder: signature, processor, size and SHA-256 of every other file
    model.so        machine code for one or several levels of a processor, behind a C interface; needs libc alone
    model.h         that interface
    weights.bin     the constants as the code wants them, 64-byte aligned, mapped read only and shared between processes
    graph.txt       the graph that was compiled

Loading needs NumPy alone.  The manifest is not trusted: names in it never become paths, and the signature must be the one that
model.so itself reports.  model.so is a program: load only artifacts of people whose programs you would run.
"""

from __future__ import annotations

import _ctypes
import ctypes
import functools
import hashlib
import itertools
import json
import mmap
import os
import platform
import shutil
import stat
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends.runtime.executable import Executable
from ..backends.runtime.signature import Signature
from ..backends.runtime.status import ABI_VERSION, Status, text_of
from ..backends.runtime.threads import PoolCode, share, thread_count
from ..ir.errors import ArtifactError, OctavoError
from .model import Model, Saved

if TYPE_CHECKING:
    from ..backends.runtime.native import NativeProgram

FORMAT = 1
_FILES = ("model.so", "model.h", "weights.bin", "graph.txt")
_MANIFEST = "manifest.json"
_MANIFEST_LIMIT = 16 << 20
_CHEAP = 16 << 20  # weights up to this size are hashed at every load: about 10 ms
_AGAIN = "compile the model again with `octavo compile`"


def save(program: NativeProgram, path: str | os.PathLike[str]) -> Saved:
    """Writes an artifact, replacing one that is there; the same program gives the same bytes.

    Raises TargetError where there is no linker, ArtifactError where something else stands at the path.
    """
    # llvmlite is optional for those who only load
    from ..backends.runtime.header import header
    from ..backends.runtime.library import build_library

    contents = {
        "model.so": build_library(program),
        "model.h": header(program.signature).encode(),
        "weights.bin": program.weights_array.data,
        "graph.txt": program.graph_text.encode(),
    }
    manifest = {
        "format": FORMAT,
        "abi": ABI_VERSION,
        "processor": program.triple.split("-")[0],
        "variants": [sorted(variant.features) for variant in program.variants],
        "signature": program.signature.to_json(),
        "metadata": program.metadata,
        "files": {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()},
    }
    text = json.dumps(manifest, sort_keys=True, indent=1).encode() + b"\n"
    return _write(Path(path), {**contents, _MANIFEST: text})


def load(path: str | os.PathLike[str], *, threads: int | None = None, check_weights: bool | None = None) -> Model:
    """The model of an artifact, ready to run.

    The size of every file is always checked and the digest of the code too; `check_weights` says whether the weights are also
    hashed, by default where they are small.  Raises ArtifactError, which says what to do.
    """
    folder = _folder(path)
    manifest, digest = _read_manifest(folder)
    signature = _signature(folder, manifest)
    _check_machine(folder, manifest)
    _check_digest(folder, "model.so", manifest, _read(folder, "model.so", manifest))
    weights = _map_weights(folder, manifest)
    if check_weights or (check_weights is None and weights.size <= _CHEAP):
        _check_digest(folder, "weights.bin", manifest, weights.data)
    library = _Library(folder, manifest, signature, weights.size)
    pool = share(thread_count(threads), library.pool_code)
    executable = Executable(signature, library.main, library.workspace, weights[library.weights_offset :], pool, library)
    saved = Saved(folder.absolute(), digest, reload)
    return Model(executable, functools.partial(_copy, saved), saved)


def reload(path: str, digest: str) -> Model:
    """What unpickling calls: `load`, for exactly the artifact that was pickled."""
    if _read_manifest(Path(path))[1] != digest:
        raise ArtifactError(f"{path} is no longer the artifact that was pickled; pickle the model again")
    return load(path)


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of an artifact as `save` wrote it, checked as far as `load` needs."""
    folder = _folder(path)
    manifest, _ = _read_manifest(folder)
    _signature(folder, manifest)
    return manifest


def read_graph(path: str | os.PathLike[str]) -> str:
    """The text of the graph that an artifact was compiled from."""
    folder = _folder(path)
    manifest, _ = _read_manifest(folder)
    data = _read(folder, "graph.txt", manifest)
    _check_digest(folder, "graph.txt", manifest, data)
    return data.decode()


def _folder(path: object) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise ArtifactError(f"an artifact is given by its path, a str or os.PathLike, not by a {type(path).__name__}")
    return Path(path)


class _Entries(ctypes.Structure):
    """`%entries` of abi.ll."""

    _fields_ = [
        ("main", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("weights_offset", ctypes.c_int64),
        ("pool_create", ctypes.c_void_p),
        ("parallel_for", ctypes.c_void_p),
    ]


class _Info(ctypes.Structure):
    """`octavo_info` of model.h."""

    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("abi_version", "inputs", "outputs", "symbols")],
        ("weights_bytes", ctypes.c_int64),
        ("name", ctypes.c_char_p),
        ("metadata", ctypes.c_char_p),
    ]


_loads = itertools.count(1)


class _Library:
    """A loaded model.so; unloaded when the last model and the thread pool let go of it."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], signature: Signature, weights: int):
        # The loader takes a path that it has seen for the file that it was then.  Each load spells its path differently.
        spelling = "".join("/." if bit == "1" else "/" for bit in bin(next(_loads))[2:])
        try:
            library = ctypes.CDLL(f"{folder.absolute()}{spelling}/model.so", mode=os.RTLD_NOW | os.RTLD_LOCAL)
        except OSError as error:
            raise ArtifactError(f"the system cannot load {folder / 'model.so'}: {error}; {_AGAIN}") from error
        weakref.finalize(self, _ctypes.dlclose, library._handle).atexit = False
        query = library.octavo_query
        query.restype = ctypes.POINTER(_Info)
        info = query().contents
        reported = json.loads(info.metadata)["signature"]
        if info.abi_version != ABI_VERSION or reported != signature.to_json() or info.weights_bytes != weights:
            raise ArtifactError(f"{folder}: manifest.json and model.so are not of the same model; {_AGAIN}")
        entries = _Entries()
        status = library.octavo_entry(ctypes.byref(entries))
        if status == Status.CPU:
            levels = " or ".join(", ".join(features) or "the baseline" for features in manifest["variants"])
            raise ArtifactError(
                f"{folder} needs a processor with {levels}, which this one is not; {_AGAIN} here, or with an older --target"
            )
        if status:
            raise ArtifactError(f"{folder / 'model.so'} does not start: {text_of(status)}")
        self.main = int(entries.main or 0)
        self.workspace = int(entries.workspace or 0)
        self.weights_offset = entries.weights_offset
        self._pool = (int(entries.pool_create or 0), int(entries.parallel_for or 0))

    def pool_code(self) -> PoolCode:
        return PoolCode(*self._pool, owner=self)


def _read_manifest(folder: Path) -> tuple[dict[str, Any], str]:
    """The manifest and its digest.  Raises ArtifactError for another version or anything that is not a manifest."""
    data = _read(folder, _MANIFEST, None)
    try:
        manifest = json.loads(data)
        version = manifest["format"]
        files = {name: (manifest["files"][name]["bytes"], manifest["files"][name]["sha256"]) for name in _FILES}
        sound = all(type(size) is int and size >= 0 and isinstance(digest, str) for size, digest in files.values())
        sound = sound and isinstance(manifest["processor"], str) and isinstance(manifest["variants"], list)
        sound = sound and all(isinstance(f, str) for features in manifest["variants"] for f in features)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{folder / _MANIFEST} is damaged ({type(error).__name__}: {error}); {_AGAIN}") from error
    if version != FORMAT or manifest.get("abi") != ABI_VERSION:
        raise ArtifactError(
            f"{folder} has artifact format {str(version)[:20]} and this Octavo reads format {FORMAT}; "
            f"use the Octavo that wrote it, or {_AGAIN}"
        )
    if not sound:
        raise ArtifactError(f"{folder / _MANIFEST} is damaged: a field has the wrong type; {_AGAIN}")
    return manifest, hashlib.sha256(data).hexdigest()


def _signature(folder: Path, manifest: Mapping[str, Any]) -> Signature:
    try:
        return Signature.from_json(manifest.get("signature"))
    except OctavoError as error:
        raise ArtifactError(f"{folder / _MANIFEST} is damaged: {error}; {_AGAIN}") from error


def _check_machine(folder: Path, manifest: Mapping[str, Any]) -> None:
    built, here = manifest["processor"], platform.machine()
    if built != here or not sys.platform.startswith("linux"):
        raise ArtifactError(f"{folder} was built for {built} on Linux and this is {here} on {sys.platform}; {_AGAIN} for it")


def _open(folder: Path, name: str) -> int:
    """A descriptor of a plain file of the artifact, never of what a link points to."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if not folder.is_dir():
            raise ArtifactError(f"{folder} is not a folder; `octavo compile` writes artifacts as folders") from error
        raise ArtifactError(f"{folder} is not a whole artifact: {name} cannot be opened ({error.strerror}); {_AGAIN}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{folder / name} is not a plain file; {_AGAIN}")
    return descriptor


def _check_size(folder: Path, name: str, manifest: Mapping[str, Any], size: int) -> None:
    wanted = manifest["files"][name]["bytes"]
    if size != wanted:
        raise ArtifactError(f"{folder / name} has {size} bytes and should have {wanted}: it is truncated or changed; {_AGAIN}")


def _check_digest(folder: Path, name: str, manifest: Mapping[str, Any], data: bytes | memoryview) -> None:
    if hashlib.sha256(data).hexdigest() != manifest["files"][name]["sha256"]:
        raise ArtifactError(f"the content of {folder / name} is not what was saved (its SHA-256 differs); {_AGAIN}")


def _read(folder: Path, name: str, manifest: Mapping[str, Any] | None) -> bytes:
    with os.fdopen(_open(folder, name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if manifest is None:
            if size > _MANIFEST_LIMIT:
                raise ArtifactError(f"{folder / name} is damaged: {size} bytes are too many for a manifest; {_AGAIN}")
        else:
            _check_size(folder, name, manifest, size)
        return file.read(size)


def _map_weights(folder: Path, manifest: Mapping[str, Any]) -> np.ndarray:
    with os.fdopen(_open(folder, "weights.bin"), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        _check_size(folder, "weights.bin", manifest, size)
        if size == 0:
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ), np.uint8)


def _copy(source: Saved, target: Path) -> Saved:
    """Saves a loaded model again: the same files, checked on the way."""
    manifest, digest = _read_manifest(source.path)
    if digest != source.digest:
        raise ArtifactError(f"{source.path} was replaced since it was loaded; load it again to save it")
    contents: dict[str, bytes | memoryview] = {name: _read(source.path, name, manifest) for name in (*_FILES[:2], "graph.txt")}
    contents["weights.bin"] = _map_weights(source.path, manifest).data
    for name, data in contents.items():
        _check_digest(source.path, name, manifest, data)
    return _write(target, {**contents, _MANIFEST: _read(source.path, _MANIFEST, None)})


def _write(path: Path, contents: Mapping[str, bytes | memoryview]) -> Saved:
    """Makes the folder beside its final place, on disk to the last byte, then puts it there in one step."""
    target = path.absolute()
    if target.is_symlink() or (target.exists() and not _replaceable(target)):
        raise ArtifactError(f"{path} exists and is not an Octavo artifact; choose another path or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, data in contents.items():
            with open(folder / name, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        folder.chmod(0o777 & ~umask)
        _sync_folder(folder)
        _put_in_place(folder, target)
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a failed attempt, or the artifact that was replaced
    return Saved(target, hashlib.sha256(contents[_MANIFEST]).hexdigest(), reload)


def _replaceable(path: Path) -> bool:
    return path.is_dir() and ((path / _MANIFEST).is_file() or not any(path.iterdir()))


def _put_in_place(folder: Path, target: Path) -> None:
    """Renames; where an artifact is in the way the two change places, so that there is one at every moment."""
    try:
        folder.rename(target)
    except OSError:
        exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if exchange and exchange(here, os.fsencode(folder), here, os.fsencode(target), swap) == 0:
            return
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            target.rename(aside / "replaced")
            folder.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
