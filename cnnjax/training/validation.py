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

from cnnjax.augmentation import Augmentation, kind_of
from cnnjax.augmentation.base import SHAPES
from cnnjax.data import Batch, Dataset, Split
from cnnjax.options import reason
from cnnjax.training.core import Task, as_arrays, as_batch

_MIXED = "labels that an augmentation has mixed"


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
    stored = batch.labels
    batch = as_batch(task, key, batch._replace(inputs=task.spec.standardize(batch.inputs)))
    for augment in task.augment:
        batch = _augmented(task, augment, key, batch)
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

    # Evaluation has the stored labels, whatever augmentations make of them.
    _called("loss", task.loss.for_evaluation(), (logits, stored), "logits, labels", one_each)
    _called("metric", task.metric, (logits, stored), "logits, labels", one_each)
    if mixed := (batch.labels.shape, batch.labels.dtype) != (stored.shape, stored.dtype):
        _called("metric", task.metric, (logits, batch.labels), f"logits, {_MIXED}", one_each)
    _called("loss", task.loss, (logits, batch.labels), f"logits, {_MIXED if mixed else 'labels'}", one_each)

    def transformation(found: Any) -> str:
        return "" if hasattr(found, "init") and hasattr(found, "update") else "an optax.GradientTransformation"

    _called("optimizer", task.optimizer, (jnp.zeros((), jnp.int32),), "steps", transformation)


def _augmented(task: Task, augment: Augmentation, key: Array, batch: Batch) -> Batch:
    """Calls an augmentation and returns its batch; raises a ValueError that names it if it does not fit the inputs."""
    kind = kind_of(batch.inputs)
    if augment.needs and kind not in augment.needs:
        kinds = " or ".join(f"{name} {SHAPES[name]}" for name in augment.needs)
        raise ValueError(
            f"augment: {augment.kind()}: needs {kinds}, but inputs are {kind} {_shape(batch.inputs.shape[1:])}: "
            "use another augmentation"
        )
    found = _called("augmentation", augment, (key, batch), "key, batch", partial(_not_a_batch, batch, task))
    return batch._replace(inputs=found.inputs, labels=found.labels)


def _not_a_batch(batch: Batch, task: Task, found: Any) -> str:
    """Returns the expected batch if an augmentation returned another one, else an empty string."""
    mixed = (task.batch_size, len(task.spec.classes))
    if not isinstance(found, Batch | Split):
        return "a Batch, as batch._replace(inputs=...)"
    (inputs, labels), (new_inputs, new_labels) = (map(_array, pair[:2]) for pair in (batch, found))
    allowed = (labels, f"float32{_shape(mixed)}", f"float32{_shape(batch.labels.shape)}")
    return "" if new_inputs == inputs and new_labels in allowed else _described(batch)


def _shape(shape: tuple[Any, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _array(found: Any) -> str:
    return f"{found.dtype}{_shape(found.shape)}" if hasattr(found, "dtype") else type(found).__name__


def _described(found: Any) -> str:
    """Describes the return value of a part: its shape, and for a batch also the dtypes."""
    if isinstance(found, Batch | Split):
        return f"inputs {_array(found.inputs)} and labels {_array(found.labels)}"
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
