"""Evaluates a function one operation at a time in float64: a reference for compiled programs.

The function is traced with the dtypes of its program, so that it draws the same random numbers. Each
operation of the trace is then computed by itself, so that nothing is fused and no loop is compiled,
and convolutions are those of `jax.lax`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import PyTree

from cnnjax.operations.convolution import STOCK

Value = Array | np.ndarray
"""An array of JAX, or of NumPy if it depends on an argument that varies."""

_EXACT = {
    *(
        "abs",
        "broadcast_in_dim",
        "concatenate",
        "convert_element_type",
        "copy",
        "dynamic_slice",
        "dynamic_update_slice",
    ),
    *("gather", "max", "min", "neg", "optimization_barrier", "pad", "reduce_max", "reduce_min", "reshape", "rev"),
    *("select_n", "sign", "slice", "split", "squeeze", "stop_gradient", "transpose"),
}
"""Operations that do not round."""


def in_float64(
    function: Callable[..., Any], fixed: Sequence[PyTree], varied: Sequence[PyTree] = (), ulps: float = 0, seed: int = 0
) -> PyTree:
    """Computes function(*fixed, *varied) one operation at a time, in float64.

    >>> in_float64(lambda x: (x + 1e-9) - x, [jnp.float32(1)])  # 0 in float32
    array(1.00000008e-09)

    With `ulps`, the floating-point numbers in `varied`, and the results of all operations that depend on
    them and round, are multiplied by random factors in 1 ± ulps * eps, where eps is that of their dtype in
    the function. The difference shows how rounding may change the result (Monte Carlo arithmetic, Parker
    1997). Random draws do not depend on `varied`, and remain the same.

    Args:
      function: a function of arrays; control flow of JAX is run in Python.
      fixed: its first arguments.
      varied: its other arguments.
      ulps: the largest relative change, in units in the last place.
      seed: seeds the changes.

    Returns:
      The result of the function as NumPy arrays, with float64 (complex128) for other floating-point dtypes.
    """
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*fixed, *varied)
    arguments = jax.tree.leaves((*fixed, *varied))
    exact = len(jax.tree.leaves(tuple(fixed)))
    with jax.enable_x64(True):
        evaluation = _Evaluation(ulps, seed)
        values = [
            evaluation.argument(value, aval.dtype, place >= exact)
            for place, (value, aval) in enumerate(zip(arguments, traced.in_avals, strict=True))
        ]
        results = map(np.asarray, evaluation.of(traced, values))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)


def _wide_dtype(dtype: Any) -> Any:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.dtype(np.complex128)
    return np.dtype(np.float64) if jnp.issubdtype(dtype, jnp.floating) else dtype


def _dtype(atom: Any) -> Any:
    return atom.aval.dtype


def _wide(value: Any) -> Array:
    return jnp.asarray(value, _wide_dtype(value.dtype))


class _Evaluation:
    """Computes the operations of a trace, one after the other."""

    def __init__(self, ulps: float, seed: int):
        self.ulps, self.random = ulps, np.random.default_rng(seed)

    def argument(self, value: Any, dtype: Any, varies: bool) -> Value:
        """Returns an argument, whose dtype in the function is `dtype`."""
        value = jnp.asarray(value, _wide_dtype(dtype))
        return self._varied(value, dtype) if varies and self.ulps else value

    def of(self, traced: ClosedJaxpr | Jaxpr, arguments: Sequence[Value]) -> list[Value]:
        """Computes the outputs of a trace; each value is freed after its last use."""
        jaxpr, constants = getattr(traced, "jaxpr", traced), getattr(traced, "consts", ())
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(_wide, constants), strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))
        last = dict.fromkeys((atom for atom in jaxpr.outvars if not isinstance(atom, Literal)), len(jaxpr.eqns))
        needed = []
        for place, equation in reversed(list(enumerate(jaxpr.eqns))):
            if any(out in last for out in equation.outvars):
                needed.append((place, equation))
                for atom in equation.invars:
                    if not isinstance(atom, Literal):
                        last.setdefault(atom, place)

        def read(atom: Any) -> Value:
            return _wide(np.asarray(atom.val, _dtype(atom))) if isinstance(atom, Literal) else values[atom]

        for place, equation in reversed(needed):
            values |= dict(zip(equation.outvars, self._computed(equation, [*map(read, equation.invars)]), strict=True))
            for atom in {*equation.outvars, *(atom for atom in equation.invars if not isinstance(atom, Literal))}:
                if last.get(atom, place) <= place:
                    values.pop(atom, None)
        return [*map(read, jaxpr.outvars)]

    def _computed(self, equation: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
        name, parameters = equation.primitive.name, equation.params
        if name in _CALLS:
            called = next(parameters[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in parameters)
            return self.of(called, operands)
        if name in _CONTROL:
            return _CONTROL[name](self, equation, operands)
        results = [*map(_wide, _applied(equation, operands))]
        if not any(isinstance(operand, np.ndarray) for operand in operands):
            return results
        if name in _EXACT:
            return [*map(np.asarray, results)]
        pairs = zip(results, equation.outvars, strict=True)
        return [self._varied(result, _dtype(variable)) for result, variable in pairs]

    def _varied(self, value: Array, dtype: Any) -> Value:
        """Changes floating-point numbers, whose dtype in the function is `dtype`, by rounding."""
        if not jnp.issubdtype(dtype, jnp.inexact):
            return value
        largest = self.ulps * float(jnp.finfo(dtype).eps)
        changes = 2 * self.random.random(value.shape, np.float32) - 1
        return np.asarray(np.asarray(value) * (1 + largest * changes.astype(np.float64)))

    # ------------------------------------------------------------------ control flow

    def _while(self, equation: JaxprEqn, operands: list[Value]) -> list[Value]:
        first, second = equation.params["cond_nconsts"], equation.params["body_nconsts"]
        ahead, body = operands[:first], operands[first : first + second]
        carry = operands[first + second :]
        while bool(self.of(equation.params["cond_jaxpr"], [*ahead, *carry])[0]):
            carry = self.of(equation.params["body_jaxpr"], [*body, *carry])
        return carry

    def _cond(self, equation: JaxprEqn, operands: list[Value]) -> list[Value]:
        branches = equation.params["branches"]
        return self.of(branches[int(np.clip(int(operands[0]), 0, len(branches) - 1))], operands[1:])

    def _scan(self, equation: JaxprEqn, operands: list[Value]) -> list[Value]:
        parameters, length = equation.params, equation.params["length"]
        if "ft_in" in parameters:  # from jax 0.12
            first, second, _ = (len([*part.vals]) for part in parameters["ft_in"].unpack())
        else:
            first, second = parameters["num_consts"], parameters["num_carry"]
        constants, carry, rows = operands[:first], operands[first : first + second], operands[first + second :]
        every: list[list[Value]] = []
        for i in reversed(range(length)) if parameters["reverse"] else range(length):
            found = self.of(parameters["jaxpr"], [*constants, *carry, *(_row(array, i) for array in rows)])
            carry = found[:second]
            every.append(found[second:])
        if parameters["reverse"]:
            every.reverse()
        if not every:
            empty: Any = (variable.aval for variable in equation.outvars[second:])
            return [*carry, *(_wide(jnp.zeros(aval.shape, aval.dtype)) for aval in empty)]
        return [*carry, *map(_stacked, zip(*every, strict=True))]


_CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call"}
_CONTROL: Mapping[str, Callable[[_Evaluation, JaxprEqn, list[Value]], list[Value]]] = {
    "while": _Evaluation._while,
    "cond": _Evaluation._cond,
    "scan": _Evaluation._scan,
}


def _row(array: Value, place: int) -> Value:
    return np.asarray(array[place]) if isinstance(array, np.ndarray) else array[place]


def _stacked(rows: Sequence[Value]) -> Value:
    return np.stack(rows) if any(isinstance(row, np.ndarray) for row in rows) else jnp.stack(rows)


def _applied(equation: JaxprEqn, operands: Sequence[Value]) -> Sequence[Value]:
    """Computes one operation with float64 in place of the floating-point dtypes of its parameters."""
    primitive, parameters = equation.primitive, equation.params
    if primitive in STOCK:
        return [STOCK[primitive](*operands, **parameters)]
    if primitive.name == "bitcast_convert_type":  # the bits are those of the dtype in the function
        operands = [jnp.asarray(operands[0], _dtype(equation.invars[0]))]
    else:
        parameters = {name: _wide_parameter(value) for name, value in parameters.items()}
    try:
        results = primitive.bind(*operands, **parameters)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{primitive.name}: this operation cannot be computed in float64: {error}") from error
    return results if primitive.multiple_results else [results]


def _wide_parameter(value: Any) -> Any:
    if isinstance(value, np.dtype):
        return _wide_dtype(value)
    if not isinstance(value, ClosedJaxpr | Jaxpr):
        return value
    # The function by which a reduction or a scatter combines two numbers.
    avals: Any = (variable.aval for variable in getattr(value, "jaxpr", value).invars)
    numbers = [jax.ShapeDtypeStruct(aval.shape, _wide_dtype(aval.dtype)) for aval in avals]
    wide = jax.make_jaxpr(lambda *numbers: _Evaluation(0, 0).of(value, numbers))(*numbers)
    return wide if isinstance(value, ClosedJaxpr) else wide.jaxpr
