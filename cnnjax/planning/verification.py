"""Verifies a compiled program: a training step and an evaluation, against float64 without compilation."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cnnjax.data import Dataset
from cnnjax.devices import compiler_options
from cnnjax.operations import in_float64
from cnnjax.sweeps import Program, Trial, task_of
from cnnjax.training import Run, TrainState, advance, as_arrays, evaluate

_ULPS = {"cpu": 128}  # several times the error of a form of convolution; see docs/convolution.md
_ULPS_OF_PRODUCTS = 2**15  # on other devices, matrix products may round to 8 to 11 bits
_ROUNDING = 64  # units in the last place of the largest number of a leaf
_ATTEMPTS = 3


class VerificationError(Exception):
    """A compiled program does not compute what its operations compute one by one."""


class Difference(NamedTuple):
    """The difference between a program and the reference in one leaf."""

    trial: int
    leaf: str
    difference: float
    """The largest difference of an element."""
    tolerance: float
    scale: float
    """The largest magnitude of an element of the reference."""

    @property
    def share(self) -> float:
        """The difference as a fraction of the tolerance."""
        return self.difference / self.tolerance

    @classmethod
    def of(cls, trial: int, leaf: str, found: np.ndarray, exact: np.ndarray, rough: np.ndarray) -> "Difference":
        """Compares a leaf of a program with the reference, exact and coarsely rounded."""
        if exact.dtype.kind not in "fc":
            return cls(trial, leaf, float((found != exact).any()), 0.5, 1.0)
        with np.errstate(invalid="ignore"):
            apart = np.where((found == exact) | (np.isnan(found) & np.isnan(exact)), 0, found - exact)
            difference, spread, scale = map(_largest, (np.where(np.isnan(apart), np.inf, apart), rough - exact, exact))
        single = np.finfo(np.float32)
        tolerance = float(spread + _ROUNDING * single.eps * scale + single.tiny)
        return cls(trial, leaf, difference, tolerance if np.isfinite(tolerance) else np.inf, scale)


def _largest(array: np.ndarray) -> float:
    return float(np.max(np.abs(array), initial=0))


def verify(program: Program, run: Run, data: Dataset, state: TrainState, trials: Sequence[Trial]) -> Difference:
    """Compares a step and an evaluation of a compiled program with the same functions in float64 without jit.

    The first and the last of the trials are compared. For each array of the state, the change that a
    step makes is compared, and for the evaluation its sums; integers must be equal. An element may
    differ by as much as any element of the array differs if all operations of the reference that depend
    on the state round 128 times as coarsely as float32 (see `operations.in_float64`), and by 64 units in
    the last place of the largest element. Where rounding may decide, as at the kink of a ReLU, a program
    may be right and differ by more. A difference therefore counts only if it is found for three states,
    which differ by 128 units in the last place of the parameters.

    Args:
      program: the program.
      run: its compiled functions.
      data: the data set; if it has folds, that of the trials is taken.
      state: the state from which the step is taken; it is not donated.
      trials: those trials of the program that are trained and have not diverged; at least one.

    Returns:
      The largest difference, relative to its tolerance.

    Raises:
      VerificationError: if the program differs by more.
      ValueError: if an operation of a user-defined part cannot be computed in float64.
    """
    data = data.at(program.trials[0].fold)
    state = jax.tree.map(np.array, state)
    for seed in range(_ATTEMPTS):
        worst = max(_compared(program, run, data, state, trials, seed), key=lambda found: found.share)
        if worst.share <= 1:
            return worst
        state = state._replace(params=_nearby(state.params, seed))
    raise VerificationError(_message(program, worst))


def _compared(
    program: Program, run: Run, data: Dataset, state: TrainState, trials: Sequence[Trial], seed: int
) -> Iterator[Difference]:
    """Yields the differences of all leaves."""
    after = run.advance(jax.tree.map(jnp.copy, run.place(state)), 1)
    found = jax.tree.map(np.array, (after, run.evaluate(run.place(state))))
    rows = {trial.number: row for row, trial in zip(program.rows, program.trials, strict=True)}
    for trial in {trial.number: trial for trial in (trials[0], trials[-1])}.values():
        before, (after, metrics) = jax.tree.map(lambda array, row=rows[trial.number]: array[row], (state, found))
        exact, rough = _references(program, run, data, before, trial, seed)
        names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(after)]
        names += [f"evaluation.{name}" for name in metrics._fields]
        leaves = jax.tree.leaves((_change(after, before), metrics))
        for name, *values in zip(names, leaves, *map(jax.tree.leaves, (exact, rough)), strict=True):
            yield Difference.of(trial.number, name, *values)


def _references(
    program: Program, run: Run, data: Dataset, state: TrainState, trial: Trial, seed: int
) -> tuple[PyTree, PyTree]:
    """Returns the change of a step and the metrics of an evaluation in float64, exact and coarsely rounded."""
    task = as_arrays(replace(task_of(program, data.spec, trial), split=1, micro_batch=0))
    ulps = _ULPS.get(jax.default_backend(), _ULPS_OF_PRODUCTS)

    def changed(task: Any, key: Any, steps: Any, train: Any, valid: Any, state: TrainState) -> PyTree:
        return _change(advance(task, key, steps, state, train, 1), state), evaluate(task, state, valid)

    with _on_cpu():
        steps = np.int32(program.config.epochs * run.steps)
        fixed = [task, jax.random.key(trial.config.seed), steps, data.train, data.valid]
        exact, rough = (in_float64(changed, fixed, [state], factor, seed) for factor in (0, ulps))
    return exact, rough


@contextlib.contextmanager
def _on_cpu() -> Iterator[None]:
    """Computes on the CPU in the block, if JAX may use it."""
    try:
        device = jax.devices("cpu")[0]
    except RuntimeError:
        yield
        return
    with jax.default_device(device):
        yield


def _change(after: PyTree, before: PyTree) -> PyTree:
    """Subtracts floating-point numbers, in float64 if they are NumPy arrays."""

    def change(new: Any, old: Any) -> Any:
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        return np.float64(new) - old if isinstance(new, np.ndarray | np.generic) else new - old

    return jax.tree.map(change, after, before)


def _nearby(params: PyTree, seed: int) -> PyTree:
    """Returns parameters that differ by 128 units in the last place."""
    random = np.random.default_rng(seed)

    def changed(array: np.ndarray) -> np.ndarray:
        largest = _ULPS["cpu"] * float(jnp.finfo(array.dtype).eps)
        return (array * (1 + largest * (2 * random.random(array.shape) - 1))).astype(array.dtype)

    return jax.tree.map(changed, params)


def _message(program: Program, found: Difference) -> str:
    options = compiler_options(once=False, devices=program.lanes.all_devices)
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax", "optax", "numpy"))
    facts = [
        f"on {jax.devices()[0].device_kind}",
        f"lanes {program.lanes}",
        f"micro_batch {program.micro_batch}",
        *(f"{name}={value}" for name, value in options.items()),
    ]
    return (
        f"verify: trial {found.trial}: {found.leaf}: the compiled program differs from float64 without jit by "
        f"{found.difference:.2g}, where the largest value is {found.scale:.2g} and rounding explains "
        f"{found.tolerance:.2g}: use another version than {versions} (compiled {', '.join(facts)})"
    )
