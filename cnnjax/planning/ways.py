"""Alternatives to execute a program: micro-batches, devices, parallel lanes. They change results only by rounding."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.data import Dataset, Spec
from cnnjax.sweeps import Program, batch_split, task_of
from cnnjax.training import can_share, make_task, separable

_MICRO_BATCHES = (32, 16)
_CACHE = 2**22  # bytes of activations above which micro-batches are faster on CPU
_WIDTHS = {"cpu": (4,), "other": (1, 16, 64)}


def in_cache(program: Program, spec: Spec) -> Program:
    """Returns the program with micro-batches if, on CPU, the activations of a batch exceed the cache.

    It applies only to networks without noise and running statistics, for which micro-batches change
    results only by rounding, and only if the parameters are smaller than the activations of a
    micro-batch, because each micro-batch adds to the gradients of all parameters.
    """
    config, part, size = program.config, program.config.batch_size // program.lanes.split, min(_MICRO_BATCHES)
    if jax.default_backend() != "cpu" or not config.network.per_example or part % size:
        return program
    network = make_task(config, spec).functions

    def traced(key: Any, inputs: Any) -> Any:
        shapes = jax.eval_shape(network.init, key, inputs)
        variables = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        return variables, network.apply(variables, inputs, train=True, key=key)

    inputs = spec.standardized
    layers, (variables, _) = jax.make_jaxpr(traced, return_shape=True)(jax.random.key(0), inputs)
    values = [value.aval for layer in layers.eqns for value in layer.outvars]
    activations = sum(value.size * value.dtype.itemsize for value in values if value.ndim > 1 and value.shape[0] == 1)
    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables.params))
    if jax.tree.leaves(variables.stats) or part * activations <= _CACHE or size * activations <= parameters:
        return program
    return program._replace(micro_batch=size)


def alternatives(program: Program, data: Dataset, micro_batches: bool = True) -> Iterator[Program]:
    """Yields alternatives to a program: another number of devices, other micro-batches, more parallel lanes."""
    count, size, lanes = len(program.trials), program.config.batch_size, program.lanes
    free = jax.device_count() // lanes.devices if jax.default_backend() == "cpu" else 1
    split = 1 if lanes.split > 1 else batch_split(program.config, free)
    if split != lanes.split and size // split % (program.micro_batch or 1) == 0:
        yield program._replace(lanes=replace(lanes, split=split))
    part = size // lanes.split
    micro = [m for m in (0, *_MICRO_BATCHES) if m < part and part % (m or part) == 0 and m != program.micro_batch]
    if micro_batches and micro and separable(task_of(program, data.spec)):
        yield from (program._replace(micro_batch=m) for m in micro)
    if lanes.devices > 1:
        yield program._replace(lanes=replace(lanes, devices=1))
    for width in _WIDTHS.get(jax.default_backend(), _WIDTHS["other"]):
        if width * lanes.devices < count and width != lanes.width:
            yield program._replace(lanes=replace(lanes, width=width))


def works(program: Program, spec: Spec) -> bool:
    """Returns whether the micro-batches and the shared batches of a program leave its results unchanged."""
    split, micro_batch = program.lanes.split, program.micro_batch
    if not can_share(program.config, split):
        return False
    if micro_batch == 0:
        return True
    divides = micro_batch > 0 and program.config.batch_size // split % micro_batch == 0
    return divides and separable(make_task(program.config, spec))
