"""Verified checkpoints, which are written atomically. Only this module uses Orbax.

A checkpoint is a folder named by its step. It contains the arrays, written by Orbax, and a manifest
with the shape, dtype and SHA-256 of every array and the size and SHA-256 of every file. Files are
verified before they are parsed.
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
LARGE = 16 * 2**20  # bytes above which a state is written while training continues
_Kind = tuple[list[int], str]  # shape and dtype
_STATE, _MANIFEST = "state", "manifest.json"
_OVERHEAD = 2**17  # bytes in addition to the arrays
_LARGEST_MANIFEST = 2**26


class CheckpointError(Exception):
    """Raised if a checkpoint cannot be written or read; the message names the file and the reason."""


class Checkpoint(NamedTuple):
    """A restored checkpoint."""

    step: int
    state: PyTree
    metric: float | None
    path: Path


def kept(metrics: Mapping[int, float | None], latest: int, best: int) -> set[int]:
    """Returns the steps to keep: the `latest` most recent, and the `best` with the highest metrics.

    Of equal metrics, later steps come first. Missing and non-finite metrics are never among the best.
    """
    finite = [(metric, step) for step, metric in metrics.items() if metric is not None and math.isfinite(metric)]
    return {*sorted(metrics)[-latest:], *(step for _, step in sorted(finite)[::-1][:best])}


class Checkpoints:
    """The checkpoints of one program in a folder: the most recent and the best ones.

    Args:
      folder: the folder, created with the first checkpoint.
      config: a digest of the configuration; checkpoints with another digest are not restored.
      latest: the number of most recent checkpoints to keep; with at least 2, there is a fallback.
      best: the number of checkpoints with the highest metric to keep in addition.
      report: called with a message for each damaged checkpoint.
      any_config: whether checkpoints of any configuration are restored.
    """

    def __init__(
        self,
        folder: Path,
        config: str,
        latest: int = 2,
        best: int = 1,
        report: Callable[[str], None] = lambda line: None,
        any_config: bool = False,
    ):
        self.any_config = any_config
        self.folder, self.config, self.latest, self.best, self.report = folder, config, latest, best, report
        self._thread = ThreadPoolExecutor(1)  # the thread starts with the first save
        self._pending: Future[None] = Future()
        self._pending.set_result(None)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits until the last checkpoint is written.

        Raises:
          CheckpointError: if it cannot be written.
        """
        try:
            self._pending.result()
        finally:
            self._thread.shutdown()

    def save(self, step: int, state: PyTree, metric: float | None = None) -> None:
        """Writes a state; large states are written in the background.

        Raises:
          CheckpointError: if the state, or the one before it, cannot be written.
        """
        arrays = {name: np.array(leaf) for name, leaf in _named(state).items()}  # the state may be donated
        self._pending.result()
        self._pending = self._thread.submit(self._write, step, arrays, metric)
        if sum(array.nbytes for array in arrays.values()) < LARGE:
            self._pending.result()

    def restore(self, like: PyTree) -> Checkpoint | None:
        """Restores the most recent valid checkpoint, as NumPy arrays in the structure of `like`.

        Returns:
          The checkpoint, or None if there are no checkpoints.

        Raises:
          CheckpointError: if there are checkpoints, but none is valid.
        """
        steps, reason = self.steps(), ""
        for step in reversed(steps):
            path = self.folder / str(step)
            try:
                return load(path, like, None if self.any_config else self.config)
            except CheckpointError as error:
                reason = str(error)
                self.report(f"{error}; {'using the one before it' if step != steps[0] else 'there is no other one'}")
        if steps:
            raise CheckpointError(f"{self.folder}: none of the {len(steps)} checkpoints can be used: {reason}")
        return None

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, including damaged ones."""
        try:
            names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and str(int(name)) == name)

    def drop_after(self, step: int) -> None:
        """Removes the checkpoints of later steps."""
        for later in self.steps():
            if later > step:
                self._remove(later)

    def _remove(self, step: int) -> None:
        aside = self.folder / f".{step}.old"  # renamed first, so that no partly removed checkpoint is read
        (self.folder / str(step)).rename(aside)
        shutil.rmtree(aside)

    def _clear(self) -> None:
        """Removes unfinished files of a killed process."""
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
            if (free := shutil.disk_usage(self.folder).free) < needed:  # Orbax would raise a hundred lines
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
            if path.exists():  # damaged, or written before the run was stopped
                path.rename(self.folder / f".{step}.old")
            unfinished.rename(path)
            self._prune()
        except Exception as error:  # Orbax raises various types if the disk is full
            raise CheckpointError(
                f"{path}: cannot be written: {reason(error)}; earlier checkpoints are intact"
            ) from error

    def _prune(self) -> None:
        metrics: dict[int, float | None] = {}
        for step in self.steps():
            try:
                metrics[step] = _manifest(self.folder / str(step))["metric"]
            except CheckpointError:  # damaged checkpoints are kept for inspection
                continue
        for step in metrics.keys() - kept(metrics, self.latest, self.best):
            self._remove(step)
        self._clear()


def load(path: Path, like: PyTree, config: str | None = None) -> Checkpoint:
    """Loads a checkpoint as NumPy arrays, and verifies its SHA-256 digests.

    Args:
      path: the folder of the checkpoint.
      like: a tree with the expected shapes and dtypes; dtypes that differ only by `jax_enable_x64` are
        converted.
      config: the expected digest of the configuration; None for any.

    Raises:
      CheckpointError: if the checkpoint is damaged, or does not have the expected arrays.
    """
    manifest = _manifest(path)
    if config is not None and manifest["config"] != config:
        raise CheckpointError(f"{path}: belongs to another configuration")
    try:
        found = _files(path)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}") from error
    for name in sorted(manifest["files"].keys() | found.keys()):
        if found.get(name) != manifest["files"].get(name):
            how = "missing" if name not in found else "changed" if name in manifest["files"] else "added"
            raise CheckpointError(f"{path / name}: {how} since it was written")
    written = {name: (facts["shape"], facts["dtype"]) for name, facts in manifest["arrays"].items()}
    _check_kinds(path, written, like)
    try:
        with _orbax() as orbax:
            arrays = orbax.restore(path.resolve() / _STATE)
    except Exception as error:
        raise CheckpointError(f"{path}: Orbax cannot read it: {reason(error)}") from error
    if not isinstance(arrays, dict) or arrays.keys() != written.keys():
        raise CheckpointError(f"{path}: its arrays do not match its manifest")
    for name in arrays:
        if _facts(arrays[name]) != manifest["arrays"][name]:
            raise CheckpointError(f"{path}: array {name} does not match its manifest")
    return Checkpoint(manifest["step"], _converted(arrays, like), manifest["metric"], path)


def alike(checkpoint: Checkpoint, like: PyTree) -> Checkpoint:
    """Checks and converts a checkpoint in memory, as `load` does for one on disk."""
    arrays = _named(checkpoint.state)
    _check_kinds(checkpoint.path, {name: _kind_of(array) for name, array in arrays.items()}, like)
    return checkpoint._replace(state=_converted(arrays, like))


def _check_kinds(path: Path, written: Mapping[str, _Kind], like: PyTree) -> None:
    """Raises CheckpointError for the first array whose shape or dtype differs from `like`."""
    wanted = {name: _kind_of(leaf) for name, leaf in _named(like).items()}
    for name in sorted(wanted.keys() | written.keys()):
        if not _convertible(written.get(name), wanted.get(name)):
            there, here = (_kind(kinds.get(name)) for kinds in (written, wanted))
            raise CheckpointError(f"{path}: array {name} is {there} in the checkpoint, {here} in this run")


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
            raise CheckpointError(f"{file}: schema {manifest['schema']}: this version reads schema {SCHEMA}")
        if written != digest(manifest) or str(manifest["step"]) != path.name:
            raise CheckpointError(f"{file}: changed since it was written")
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: damaged: {reason(error)}") from error
    return manifest


def preload() -> None:
    """Imports Orbax in advance, because the import takes longer than saving a small state."""
    with _orbax():
        pass


@contextmanager
def _orbax() -> Iterator[Any]:
    import orbax.checkpoint as ocp
    from absl import logging

    with quiet(logging, logging.FATAL):  # it also raises all that it logs
        yield ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def _named(tree: PyTree) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _convertible(written: _Kind | None, wanted: _Kind | None) -> bool:
    """Returns whether both are equal, or differ only by `jax_enable_x64`: the same kind in 32 and 64 bits."""
    if written == wanted or written is None or wanted is None:
        return written == wanted
    (shape, name), (other_shape, other) = written, wanted
    return shape == other_shape and {name, other} in ({f"{kind}32", f"{kind}64"} for kind in ("float", "int", "uint"))


def _facts(array: np.ndarray) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": array.dtype.name, "sha256": sha256(array)}


def _files(folder: Path) -> dict[str, Any]:
    """Returns size and SHA-256 of all files in a folder by path, except the manifest and symbolic links."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.is_symlink() and name != _MANIFEST:
            with path.open("rb") as file:
                found[name] = {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    return found


def _kind(kind: _Kind | None) -> str:
    return "missing" if kind is None else f"{kind[1]}{kind[0]}"
