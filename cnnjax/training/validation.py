"""Checks that a task can be trained on a data set, by tracing the parts of a step one by one."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import PyTreeDef
from jaxtyping import PyTree

from cnnjax.data import Dataset, Split
from cnnjax.options import reason
from cnnjax.training.core import Task, as_arrays


def validate(task: Task, data: Dataset) -> None:
    """Traces the parts of a step on a data set, without computing anything.

    Raises:
      ValueError: if the network does not fit the inputs, the batch is larger than the training split, a
        loss or metric needs classes that the data does not have, or a part has the wrong signature or
        returns the wrong shape; the message names the part.
    """
    for name, part in (("loss", task.loss), ("metric", task.metric)):
        if part.needs_classes and not task.spec.classes:
            raise ValueError(f"{name}: {part.kind()}: needs classes, but {data.name} has none: use another {name}")
    if task.batch_size > len(data.train.labels):
        raise ValueError(
            f"batch_size: {task.batch_size}: must be at most {len(data.train.labels)}, the number of training examples "
            f"of {data.name}"
        )
    task = dataclasses.replace(as_arrays(task), split=1, micro_batch=0)
    labels = data.train.labels[:1]
    _validated(*_abstract((task, Split(data.train.inputs[:1], labels))))


def _abstract(tree: PyTree) -> tuple[PyTreeDef, tuple[jax.ShapeDtypeStruct, ...]]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in leaves)


@lru_cache(maxsize=256)
def _validated(structure: PyTreeDef, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> None:
    jax.eval_shape(_parts_of_a_step, *jax.tree.unflatten(structure, shapes))


def _parts_of_a_step(task: Task, example: Split) -> None:
    size, key = task.batch_size, jax.random.key(0)
    batch = jax.tree.map(lambda array: jnp.zeros((size, *array.shape[1:]), array.dtype), example)
    batch = batch._replace(inputs=task.spec.standardize(batch.inputs))
    for augment in task.augment:
        batch = _called("augmentation", augment, (key, batch), "key, batch", partial(_as_batch, batch, task))
    network = task.functions

    built = partial(network.init, key)
    variables = _called("network", task.network, (batch.inputs,), "rngs, example, outputs", lambda _: "", built)

    def logits_of(inputs: Array) -> Array:
        return network.apply(variables, inputs, train=True, key=key)[0]

    classes = len(task.spec.classes)
    wanted = (size, classes) if classes else (size, "...")
    logits = _called(
        "network",
        task.network,
        (batch.inputs,),
        "inputs",
        lambda found: (
            ""
            if getattr(found, "shape", (None,))[: 1 + bool(classes)] == wanted[: 1 + bool(classes)]
            and (not classes or found.ndim == 2)
            else f"an array {_shape(wanted)}"
        ),
        logits_of,
    )

    def one_each(found: Any) -> str:
        return "" if getattr(found, "shape", None) == (size,) else f"one number per example, {_shape((size,))}"

    weighted = _called("loss", task.loss, (task.spec,), "spec", lambda _: "", task.loss.on)
    _called("loss", task.loss, (logits, batch.labels), "logits, labels", one_each, weighted)
    for name, part in (("loss", task.loss.for_evaluation()), ("metric", task.metric)):
        _called(name, part, (logits, batch.labels), "logits, labels", one_each)

    def transformation(found: Any) -> str:
        return "" if hasattr(found, "init") and hasattr(found, "update") else "an optax.GradientTransformation"

    _called("optimizer", task.optimizer, (jnp.zeros((), jnp.int32),), "steps", transformation)


def _as_batch(batch: Split, task: Task, found: Any) -> str:
    """Returns the expected batch if an augmentation returned another one, else an empty string."""
    mixed = jax.ShapeDtypeStruct((task.batch_size, len(task.spec.classes)), jnp.float32)
    try:
        shapes = [(array.shape, array.dtype) for array in Split(*found)]
    except (TypeError, AttributeError):
        return "a Split, as batch._replace(inputs=...)"
    inputs, labels = ((array.shape, array.dtype) for array in batch)
    if shapes[0] == inputs and shapes[1] in (labels, (mixed.shape, mixed.dtype)):
        return ""
    return _described(batch)


def _shape(shape: tuple[Any, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _described(found: Any) -> str:
    """Describes the return value of a part: its shape, and for a batch also the dtypes."""
    if isinstance(found, Split):
        return " and ".join(f"{name} {a.dtype}{_shape(a.shape)}" for name, a in found._asdict().items())
    return _shape(found.shape) if hasattr(found, "shape") else type(found).__name__


def _called(
    name: str,
    part: Any,
    arguments: tuple[Any, ...],
    words: str,
    problem: Callable[[Any], str],
    function: Callable[..., Any] | None = None,
) -> Any:
    """Calls a part and returns its result; raises a ValueError that names the part if either is wrong."""
    who = f"{name} {type(part).__name__}"
    try:
        found = (function or part)(*arguments)
    except jax.errors.TracerBoolConversionError as error:
        raise ValueError(
            f"{who}: {words}: a Python condition depends on a traced number: use jnp.where, make the field "
            f"static(...), or replace nnx.Dropout by cnnjax.Dropout: {reason(error)}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{reason(error)}" if name == "network" else f"{who}: {reason(error)}") from error
    except Exception as error:
        raise ValueError(f"{who}: called with ({words}): {type(error).__name__}: {reason(error)}") from error
    if expected := problem(found):
        raise ValueError(f"{who}: called with ({words}): returned {_described(found)}, expected {expected}")
    return found
