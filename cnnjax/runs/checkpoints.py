"""Checkpoints: states on disk, each whole or not there. The only room that knows Orbax.

A checkpoint is a folder named by its step. Orbax writes the arrays into it, and a manifest beside
them holds what makes them trustworthy: the shape, dtype and SHA-256 of every array, and the size
and SHA-256 of every file, so that a file is not parsed before it is known to be the one written.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from cnnjax.data.cache import sha256
from cnnjax.logs import quiet
from cnnjax.options import from_json, reason
from cnnjax.runs.records import digest

SCHEMA = 1
LARGE = 16 * 2**20  # bytes of a state that is written while training goes on
_Kind = tuple[list[int], str]  # shape and dtype
_STATE, _MANIFEST = "state", "manifest.json"
_OVERHEAD = 2**17  # bytes besides the arrays
_LARGEST_MANIFEST = 2**26


class CheckpointError(Exception):
    """A checkpoint that cannot be written or read; the message names the file and says why."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    step: int
    state: PyTree
    metric: float | None
    path: Path


def kept(metrics: Mapping[int, float | None], latest: int, best: int) -> set[int]:
    """The steps to keep: the `latest` last, and the `best` with the highest metrics, later ones first.

    A metric that is missing or not finite is never among the best, and costs no other its place.
    """
    finite = [(metric, step) for step, metric in metrics.items() if metric is not None and math.isfinite(metric)]
    return {*sorted(metrics)[-latest:], *(step for _, step in sorted(finite)[::-1][:best])}


class Checkpoints:
    """The checkpoints of one program in a folder of their own: its latest and its best.

    Args:
      folder: made with the first checkpoint.
      config: a digest of what is trained; what was written under another is refused.
      of_any: whether it is taken all the same.
      latest: how many of the last are kept; at least 2 leave one to fall back to.
      best: how many with the highest metric are kept besides.
      report: called with a line for each checkpoint that is damaged.
    """

    def __init__(
        self,
        folder: Path,
        config: str,
        latest: int = 2,
        best: int = 1,
        report: Callable[[str], None] = lambda line: None,
        of_any: bool = False,
    ):
        self.of_any = of_any
        self.folder, self.config, self.latest, self.best, self.report = folder, config, latest, best, report
        self._thread = ThreadPoolExecutor(1)  # which starts with the first save
        self._pending: Future[None] = Future()
        self._pending.set_result(None)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for what is being written.

        Raises:
          CheckpointError: it cannot be written.
        """
        try:
            self._pending.result()
        finally:
            self._thread.shutdown()

    def save(self, step: int, state: PyTree, metric: float | None = None) -> None:
        """Writes a state; a large one while the caller goes on.

        Raises:
          CheckpointError: it cannot be written, or the one before could not.
        """
        arrays = {name: np.array(leaf) for name, leaf in _named(state).items()}  # the state may be donated
        self._pending.result()
        self._pending = self._thread.submit(self._write, step, arrays, metric)
        if sum(array.nbytes for array in arrays.values()) < LARGE:
            self._pending.result()

    def restore(self, like: PyTree) -> Checkpoint | None:
        """The newest sound checkpoint, as numpy arrays in the structure of `like`; None if there is none.

        Raises:
          CheckpointError: there are checkpoints, and every one is damaged.
        """
        steps, reason = self.steps(), ""
        for step in reversed(steps):
            path = self.folder / str(step)
            try:
                return load(path, like, None if self.of_any else self.config)
            except CheckpointError as error:
                reason = str(error)
                self.report(f"{error}; {'the one before it is taken' if step != steps[0] else 'no other is left'}")
        if steps:
            raise CheckpointError(f"{self.folder}: none of its checkpoints ({len(steps)}) can be used: {reason}")
        return None

    def steps(self) -> list[int]:
        """The steps of which there are folders, damaged ones included."""
        try:
            names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and str(int(name)) == name)

    def drop_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, from which nothing goes on any more."""
        for later in self.steps():
            if later > step:
                self._remove(later)

    def _remove(self, step: int) -> None:
        aside = self.folder / f".{step}.old"  # first out of sight, so that no half of one is seen
        (self.folder / str(step)).rename(aside)
        shutil.rmtree(aside)

    def _clear(self) -> None:
        """Removes what a process that was killed did not finish."""
        for path in self.folder.iterdir():
            if re.fullmatch(r"\.\d+(\.old)?", path.name):
                shutil.rmtree(path)

    def _write(self, step: int, arrays: dict[str, np.ndarray], metric: float | None) -> None:
        path = self.folder / str(step)
        try:
            self.folder.parent.mkdir(exist_ok=True)
            self.folder.mkdir(exist_ok=True)
            self._clear()
            needed = sum(array.nbytes for array in arrays.values()) + _OVERHEAD
            if (free := shutil.disk_usage(self.folder).free) < needed:  # Orbax would tell it in a hundred lines
                raise OSError(f"No space left on device: {free} bytes are free, {needed} needed")
            unfinished = self.folder / f".{step}"
            with _orbax() as orbax:
                orbax.save(unfinished.resolve() / _STATE, arrays)
            manifest = {
                "schema": SCHEMA,
                "config": self.config,
                "step": step,
                "metric": metric if metric is not None and math.isfinite(metric) else None,
                "arrays": {name: _facts(array) for name, array in arrays.items()},
                "files": _files(unfinished),
            }
            with (unfinished / _MANIFEST).open("x") as file:
                json.dump({**manifest, "sha256": digest(manifest)}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            if path.exists():  # damaged, or of a run that was stopped after it was written
                path.rename(self.folder / f".{step}.old")
            unfinished.rename(path)
            self._prune()
        except Exception as error:  # Orbax has no type of its own for a disk that is full
            raise CheckpointError(
                f"{path}: cannot be written: {reason(error)}; the ones before it are whole"
            ) from error

    def _prune(self) -> None:
        metrics: dict[int, float | None] = {}
        for step in self.steps():
            try:
                metrics[step] = _manifest(self.folder / str(step))["metric"]
            except CheckpointError:  # left for a look
                continue
        for step in metrics.keys() - kept(metrics, self.latest, self.best):
            self._remove(step)
        self._clear()


def load(path: Path, like: PyTree, config: str | None = None) -> Checkpoint:
    """A checkpoint as numpy arrays, verified to the bit.

    Args:
      path: its folder.
      like: a tree of arrays, or of shapes and dtypes, as the state is expected to be; where it differs
        from the checkpoint by `jax_enable_x64` alone, numbers are converted.
      config: the digest under which it was written; None for any.

    Raises:
      CheckpointError: it is damaged, or of another kind.
    """
    manifest = _manifest(path)
    if config is not None and manifest["config"] != config:
        raise CheckpointError(f"{path}: of another configuration")
    try:
        found = _files(path)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}") from error
    for name in sorted(manifest["files"].keys() | found.keys()):
        if found.get(name) != manifest["files"].get(name):
            how = "missing" if name not in found else "changed" if name in manifest["files"] else "not one of its files"
            raise CheckpointError(f"{path / name}: {how} since it was written")
    written = {name: (facts["shape"], facts["dtype"]) for name, facts in manifest["arrays"].items()}
    _check_kinds(path, written, like)
    try:
        with _orbax() as orbax:
            arrays = orbax.restore(path.resolve() / _STATE)
    except Exception as error:
        raise CheckpointError(f"{path}: Orbax cannot read it: {reason(error)}") from error
    if not isinstance(arrays, dict) or arrays.keys() != written.keys():
        raise CheckpointError(f"{path}: holds other arrays than its manifest says")
    for name in arrays:
        if _facts(arrays[name]) != manifest["arrays"][name]:
            raise CheckpointError(f"{path}: {name} is not the array that was written")
    return Checkpoint(manifest["step"], _converted(arrays, like), manifest["metric"], path)


def alike(checkpoint: Checkpoint, like: PyTree) -> Checkpoint:
    """A checkpoint in memory, checked and converted as `load` does."""
    arrays = _named(checkpoint.state)
    _check_kinds(checkpoint.path, {name: _kind_of(array) for name, array in arrays.items()}, like)
    return checkpoint._replace(state=_converted(arrays, like))


def _check_kinds(path: Path, written: Mapping[str, _Kind], like: PyTree) -> None:
    """CheckpointError names the first array that is not as `like` has it."""
    wanted = {name: _kind_of(leaf) for name, leaf in _named(like).items()}
    for name in sorted(wanted.keys() | written.keys()):
        if not _convertible(written.get(name), wanted.get(name)):
            there, here = (_kind(kinds.get(name)) for kinds in (written, wanted))
            raise CheckpointError(f"{path}: {name} is {there} there, {here} here")


def _kind_of(leaf: Any) -> _Kind:
    return list(leaf.shape), np.dtype(leaf.dtype).name


def _converted(arrays: Mapping[str, Any], like: PyTree) -> PyTree:
    leaves = [arrays[name].astype(leaf.dtype, copy=False) for name, leaf in _named(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _manifest(path: Path) -> dict[str, Any]:
    file = path / _MANIFEST
    try:
        with file.open("rb") as opened:
            manifest = from_json(opened.read(_LARGEST_MANIFEST))
        written = manifest.pop("sha256")
        if manifest["schema"] != SCHEMA:
            raise CheckpointError(f"{file}: schema {manifest['schema']}; this version reads {SCHEMA}")
        if written != digest(manifest) or str(manifest["step"]) != path.name:
            raise CheckpointError(f"{file}: changed since it was written")
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: damaged: {reason(error)}") from error
    return manifest


def preload() -> None:
    """Imports Orbax, which takes longer than a small save: to be called while something else is waited for."""
    with _orbax():
        pass


@contextmanager
def _orbax() -> Iterator[Any]:
    import orbax.checkpoint as ocp
    from absl import logging

    with quiet(logging, logging.FATAL):  # what it logs it also raises
        yield ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def _named(tree: PyTree) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _convertible(written: _Kind | None, wanted: _Kind | None) -> bool:
    """Whether both are one, or differ by `jax_enable_x64` alone: numbers of a kind in 32 and in 64 bits."""
    if written == wanted or written is None or wanted is None:
        return written == wanted
    (shape, name), (other_shape, other) = written, wanted
    return shape == other_shape and {name, other} in ({f"{kind}32", f"{kind}64"} for kind in ("float", "int", "uint"))


def _facts(array: np.ndarray) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": array.dtype.name, "sha256": sha256(array)}


def _files(folder: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file below a folder but the manifest, by path; a link counts as none."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.is_symlink() and name != _MANIFEST:
            with path.open("rb") as file:
                found[name] = {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    return found


def _kind(kind: _Kind | None) -> str:
    return "missing" if kind is None else f"{kind[1]}{kind[0]}"
