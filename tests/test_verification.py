"""The sentinel: what runs compile is what its operations compute one by one, in float64.

The tolerance of an array is how far any of its elements moves if every operation of the reference rounds 128 times as
coarsely as float32, and 64 units in the last place of its largest element. It grows with the depth of a network, with
cancellation and with the number of kinks near an input, as rounding does: programs stay below a tenth of it.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
import pytest
from conftest import ROOT, mistake, script
from flax import nnx
from jax import lax
from test_networks import SMALL
from test_operations import CASES, POOLS, Case, arguments, operands, reference_pool

import cnnjax
from cnnjax import (
    SGD,
    Adam,
    CNNConfig,
    InMemory,
    LeNet5Config,
    Lion,
    Loss,
    Metric,
    MLPConfig,
    NetworkConfig,
    ResNetConfig,
    SweepConfig,
    TrainConfig,
    config,
    devices,
    networks,
)
from cnnjax.data import Dataset, Split
from cnnjax.networks import TextCNNConfig
from cnnjax.operations import avg_pool, conv_general_dilated, in_float64, max_pool
from cnnjax.planning import Difference, VerificationError, verify, works
from cnnjax.runs import Verified, Verifying
from cnnjax.sweeps import Program, compile_program, plan, trials
from cnnjax.training import Lanes, programs

FAULTY = jaxlib.version.__version__ == "0.10.2"
ULPS = 128

# ------------------------------------------------------------------------- the reference


def everything(key: jax.Array, x: jax.Array) -> tuple[Any, ...]:
    """Calls, control flow, reductions, scatters and draws."""
    y = jax.checkpoint(jnp.sin)(x)
    carried, rows = lax.scan(lambda c, t: (c + t * x[0], (c, t)), jnp.float32(0), y, reverse=True)
    draws = jax.random.bernoulli(key, 0.3, x.shape)
    return (
        *(carried, rows, draws, jax.random.normal(key, x.shape), jnp.where(draws, x, 0)),
        lax.scan(lambda c, t: (c, t), 0, jnp.zeros((0, 3)))[1],
        lax.cond(carried > 0, lambda: jnp.sort(y), lambda: y),
        lax.while_loop(lambda carry: carry[0] < 3, lambda carry: carry + 1, y),
        lax.fori_loop(0, 3, lambda i, total: total + jax.nn.gelu(x[i]), jnp.float32(0)),
        jax.grad(lambda y: jax.nn.silu(y[jnp.array([0, 0, 1])]).sum())(y),
        jax.grad(lambda y: (max_pool(y[None, :, None], (3,)) ** 2).sum())(y),
        jax.grad(lambda y: (lax.reduce_window(y, -jnp.inf, lax.max, (2,), (1,), "VALID") ** 2).sum())(y),
        *(lax.reduce(y, jnp.float32(0), lambda a, b: a + 2 * b, (0,)), jax.nn.log_softmax(y), jnp.fft.fft(y)),
        *(jnp.argmax(y), lax.top_k(y, 2), jnp.cumsum(y), jax.nn.one_hot(2, 4), y.astype(jnp.bfloat16)),
    )


def test_the_reference_computes_what_jit_computes_with_more_bits() -> None:
    key, x = jax.random.key(0), jax.random.normal(jax.random.key(1), (7,))
    expected, found = jax.jit(everything)(key, x), in_float64(everything, [key, x])
    for a, b in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        assert b.dtype.name == {"float32": "float64", "bfloat16": "float64", "complex64": "complex128"}.get(
            a.dtype.name, a.dtype.name
        )
        if a.dtype.kind in "ib":
            np.testing.assert_array_equal(a, b)
        else:
            kind = np.complex128 if a.dtype.kind == "c" else np.float64
            np.testing.assert_allclose(np.asarray(a, kind), b, atol=1e-2 if a.dtype == jnp.bfloat16 else 2e-6)
    with jax.enable_x64(True):
        wide = np.asarray(jax.jit(lambda x: jnp.sin(x).sum())(np.asarray(x, np.float64)))
    np.testing.assert_allclose(in_float64(lambda x: jnp.sin(x).sum(), [x]), wide, rtol=1e-14)


def test_coarse_rounding_changes_what_depends_on_the_state_and_no_draw() -> None:
    key, x = jax.random.key(0), jnp.arange(1.0, 8)

    def function(key: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
        return jax.random.uniform(key, (7,)), x, x.sum() - 28, jnp.flip(x) > 3.5

    exact, rough = (in_float64(function, [key], [x], ulps) for ulps in (0, ULPS))
    np.testing.assert_array_equal(exact[0], rough[0])
    np.testing.assert_array_equal(exact[1], x)
    change = abs(rough[1] / np.arange(1.0, 8) - 1)
    assert (change > 0).all()
    assert (change <= ULPS * 2.0**-23).all()
    assert exact[2] == 0
    assert 0 < abs(rough[2]) < 28 * 3 * ULPS * 2.0**-23
    np.testing.assert_array_equal(exact[3], rough[3])


# ------------------------------------------------------------------------- forms


def agree(found: Any, exact: Any, rough: Any) -> None:
    for place, leaves in enumerate(zip(*map(jax.tree.leaves, (found, exact, rough)), strict=True)):
        difference = Difference.of(0, str(place), *map(np.asarray, leaves))
        assert difference.share <= 1, difference


def as_runs_compile(function: Callable[..., Any], count: int, *arrays: Any) -> Any:
    program = jax.jit(function).lower(*arrays)
    return devices.compiled(program, devices.compiler_options(once=False, devices=count))(*arrays)


def check_lanes(step: Callable[..., Any], ours: Any, theirs: Any, *arrays: jax.Array, every: bool) -> None:
    """Two steps in a loop, in lanes one after the other and side by side, for one device and for a device a core."""

    def steps(operation: Any, *arrays: jax.Array) -> Any:
        return lax.scan(lambda carry, _: step(operation, *carry), arrays, None, length=2)

    def one_after_the_other(*lanes: jax.Array) -> Any:
        return lax.map(lambda lane: steps(ours, *lane), lanes)

    def reference(*lanes: jax.Array) -> Any:
        each = [steps(theirs, *(array[i] for array in lanes)) for i in range(len(lanes[0]))]
        return jax.tree.map(lambda *arrays: jnp.stack(arrays), *each)

    exact, rough = (in_float64(reference, [], arrays, ulps) for ulps in (0, ULPS))
    agree(as_runs_compile(one_after_the_other, 1, *arrays), exact, rough)
    if every:
        agree(as_runs_compile(jax.vmap(lambda *lane: steps(ours, *lane)), 1, *arrays), exact, rough)
        agree(as_runs_compile(one_after_the_other, 2, *arrays), exact, rough)


FAST = {"one-channel", "depthwise"}  # all others, and all other ways, are slow: they compile many operations


def some(names: Any) -> list[Any]:
    return [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", some(CASES))
def test_convolutions_in_runs_are_those_of_lax_in_float64(name: str) -> None:
    """Output and both gradients."""
    case: Case = CASES[name]

    def step(convolution: Any, x: jax.Array, kernel: jax.Array) -> Any:
        y, pull = jax.vjp(lambda *operands: convolution(*operands, **arguments(case)), x, kernel)
        of_x, of_kernel = pull(jnp.tanh(y))
        return (x - 1e-2 * of_x, kernel - 1e-2 * of_kernel), (y, of_x, of_kernel)

    arrays = operands(case, jnp.float32, lanes=(2,))
    check_lanes(step, conv_general_dilated, lax.conv_general_dilated, *arrays, every=name not in FAST)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("channels", [4, pytest.param(16, marks=pytest.mark.slow)])  # fewer than fill a register
@pytest.mark.parametrize("name", some(POOLS))
def test_pooling_in_runs_is_that_of_lax_in_float64(name: str, channels: int, kind: str) -> None:
    size, *how = POOLS[name]

    def mean(x: jax.Array, window: Any, strides: Any, padding: Any) -> jax.Array:
        pads = padding if isinstance(padding, str) else ((0, 0), *padding, (0, 0))
        steps = (1, *(strides or (1,) * len(window)), 1)
        return lax.reduce_window(x, 0.0, lax.add, (1, *window, 1), steps, pads) / np.prod(window)

    def step(pool: Any, x: jax.Array) -> Any:
        y, pull = jax.vjp(lambda x: pool(x, *how), x)
        [of_x] = pull(jnp.cos(y))
        return (x + 0.1 * of_x,), (y, of_x)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, *size, channels)), jnp.float32)
    ours, theirs = (max_pool, reference_pool) if kind == "max" else (avg_pool, mean)
    check_lanes(step, ours, theirs, x, every=True)


# ------------------------------------------------------------------------- networks

NETWORKS: dict[str, tuple[NetworkConfig, tuple[int, ...]]] = {
    "mlp": (MLPConfig(hidden=(4,), dropout=0.2), (4, 4, 1)),
    "cnn": (CNNConfig(filters=(2,)), (8, 8, 1)),
    "cnn-everything": (
        CNNConfig(filters=(4, 8), convolutions=2, batch_norm=True, dropout=0.1, dense=(8,), groups=2),
        (12, 12, 3),
    ),
    "cnn-strides": (CNNConfig(filters=(6, 16), kernel=5, stride=2, pool="none", head="global"), (16, 16, 3)),
    "cnn-dilation": (CNNConfig(filters=(6, 8), dilation=2, pool="average", activation="gelu"), (16, 16, 3)),
    "cnn-shifts": (CNNConfig(filters=(8, 32), activation="tanh"), (24, 24, 3)),
    "cnn-winograd": (CNNConfig(filters=(64, 64), pool="none", head="global"), (12, 12, 3)),
    "cnn-1-d": (CNNConfig(filters=(4, 8), kernel=5), (40, 3)),
    "cnn-3-d": (CNNConfig(filters=(2, 4)), (8, 8, 8, 1)),
    "lenet5": (LeNet5Config(), (28, 28, 1)),
    "resnet": (ResNetConfig(filters=(4, 8), blocks=2), (16, 16, 3)),
    "text-cnn": (TextCNNConfig(embedding=8, kernels=(2, 3), filters=4), (12,)),
    **SMALL,
}
OTHERS = [(Lanes(1, 2), 0), (Lanes(0, 1), 0), (Lanes(1, 1, 2), 0), (Lanes(1, 1), 4)]


def dataset(shape: tuple[int, ...], words: int = 0) -> Dataset:
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        labels = np.arange(count) % 10
        if words:
            return Split(rng.integers(0, words, (count, *shape)).astype(np.int32), labels)
        return Split(rng.integers(0, 256, (count, *shape)).astype(np.uint8), labels)

    names = {"vocabulary": ("", "?", *map(str, range(2, words)))} if words else {}
    return Dataset.of("noise", tuple("abcdefghij"), split(40), split(20), split(10), **names)


def test_every_network_is_verified() -> None:
    shipped = {
        value for value in vars(networks).values() if isinstance(value, type) and issubclass(value, NetworkConfig)
    }
    assert shipped - {NetworkConfig} == {type(network) for network, _ in NETWORKS.values()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_and_an_evaluation_of_a_network_are_those_in_float64(name: str) -> None:
    """One lane after the other, and some networks in one of the other ways to run them as well."""
    network, shape = NETWORKS[name]
    data = dataset(shape, 30 if network.for_text else 0)
    base = TrainConfig(network, SGD(learning_rate=0.1, weight_decay=1e-3), batch_size=16, epochs=2)
    turn = [*NETWORKS].index(name) % len(OTHERS)
    others = OTHERS if name == "cnn" else [] if name in SMALL else OTHERS[turn : turn + 1]
    for lanes, micro_batch in [(Lanes(1, 1), 0), *others]:
        [program] = plan(trials(SweepConfig(base, (("learning_rate", (0.01, 0.1, 0.3)),))), lanes)
        program = program._replace(micro_batch=micro_batch)
        if works(program, data.spec):
            run = compile_program(program, data)
            assert verify(program, run, data, run.state, program.trials).share < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [Adam(clip_norm=1.0), Lion()], ids=["adam", "lion"])
def test_optimizers_and_averages_are_verified(optimizer: Any) -> None:
    """Also where a step depends on the sign of a gradient, so that rounding decides."""
    data = dataset((8, 8, 1))
    base = TrainConfig(CNNConfig(filters=(4,), batch_norm=True), optimizer, batch_size=16, epochs=2, ema=0.9)
    [program] = plan(trials(SweepConfig(base, (), 2)), Lanes())
    run = compile_program(program, data)
    assert verify(program, run, data, run.state, program.trials).share < 0.5


# ------------------------------------------------------------------------- what is wrong is found


def rows_of(count: int = 32_769) -> np.ndarray:
    return np.stack([np.arange(count) / 1000, np.zeros(count), np.zeros(count)], 1).astype(np.float32)


def test_the_fusion_that_gives_wrong_sums_is_found() -> None:
    """https://github.com/jax-ml/jax/issues/39103, under the options of XLA and under those of runs."""

    def energies(rows: jax.Array) -> jax.Array:
        return jax.vmap(lambda row: jnp.square(jnp.eye(3) @ row).sum())(rows)

    rows = rows_of()
    exact, rough = (in_float64(energies, [], [rows], ulps) for ulps in (0, ULPS))
    assert (Difference.of(0, "energies", np.asarray(jax.jit(energies)(rows)), exact, rough).share > 1) is FAULTY
    for count in (1, 2):
        agree(as_runs_compile(energies, count, rows), exact, rough)
    agree(devices.jit(energies)(rows), exact, rough)  # as trained networks are called and looked at


def test_programs_outside_of_runs_work_inside_of_transformations() -> None:
    double = devices.jit(lambda x, count: x * count, static_argnames="count")
    np.testing.assert_array_equal(jax.vmap(lambda x: double(x, count=2))(jnp.arange(3)), [0, 2, 4])
    assert jax.grad(jax.jit(lambda x: double(x, 3)))(1.0) == 3


class Energies(nnx.Module):
    """The squared lengths of rows, multiplied by a matrix."""

    def __init__(self, input_shape: Any, outputs: int, *, rngs: nnx.Rngs):
        self.matrix = nnx.Param(jnp.eye(3))

    def __call__(self, rows: jax.Array) -> jax.Array:
        return jax.vmap(lambda row: jnp.square(self.matrix[...] @ row).sum())(rows)


@config
class EnergiesConfig(NetworkConfig):
    """The arguments of `Energies`."""

    module = Energies


@config
class Energy(Loss):
    """The output itself."""

    def __call__(self, logits: Any, labels: Any) -> Any:
        return logits


@config
class Height(Metric):
    """The output itself."""

    def __call__(self, logits: Any, labels: Any) -> Any:
        return logits


@pytest.fixture
def options_of_xla(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Programs are compiled as XLA does by default."""
    programs._executable.cache_clear()
    monkeypatch.setattr(devices, "compiler_options", lambda **how: {})
    yield
    programs._executable.cache_clear()


def energy_program() -> tuple[Program, Dataset]:
    """All examples are a batch; only the last one for validation is not zero, which the fusion takes from another."""
    rows, labels = rows_of(), np.zeros(32_769, np.float32)
    last = np.where(np.arange(len(rows))[:, None] == len(rows) - 1, rows, 0)
    data = Dataset.of("rows", (), Split(rows, labels), Split(last, labels), Split(rows[:4], labels[:4]))
    plain = replace(data.spec, mean=np.zeros(3, np.float32), std=np.ones(3, np.float32))
    base = TrainConfig(EnergiesConfig(), SGD(0.01), loss=Energy(), metric=Height(), batch_size=len(rows), epochs=1)
    [program] = plan(trials(SweepConfig(base, (), 1)), Lanes())
    return program, data._replace(spec=plain)


@pytest.mark.slow
def test_a_network_that_the_fusion_miscomputes_is_verified_under_the_options_of_runs() -> None:
    program, data = energy_program()
    run = compile_program(program, data)
    assert verify(program, run, data, run.state, program.trials).share < 0.5


@pytest.mark.skipif(not FAULTY, reason="this version of jaxlib computes it right")
def test_a_network_that_is_miscomputed_is_refused(options_of_xla: None) -> None:
    program, data = energy_program()
    run = compile_program(program, data)
    with pytest.raises(VerificationError, match=r"verify: trial 0: evaluation\.loss_sum: the compiled program differs"):
        verify(program, run, data, run.state, program.trials)


def other(small: Dataset, change: Callable[[TrainConfig], TrainConfig]) -> str:
    """The message where the compiled program is that of another configuration."""
    base = TrainConfig(MLPConfig(hidden=(4,)), SGD(learning_rate=0.1), batch_size=32, epochs=2)
    [program], [wrong] = (plan(trials(SweepConfig(each, (), 2)), Lanes()) for each in (base, change(base)))
    run = compile_program(wrong, small)
    with pytest.raises(VerificationError) as error:
        verify(program, run, small, run.state, program.trials)
    return str(error.value)


def test_a_difference_in_the_third_digit_of_an_update_is_found(small: Dataset) -> None:
    message = other(small, lambda base: replace(base, optimizer=SGD(learning_rate=0.1001)))
    assert re.match(r"verify: trial [01]: params\.dense\.", message)
    assert "the compiled program differs from float64 without jit by " in message
    assert f"use another version than jax {jax.__version__}, jaxlib {jaxlib.version.__version__}, flax " in message
    assert "(compiled on cpu, lanes 1:1, micro_batch 0" in message
    assert "\n" not in message


@pytest.mark.slow
def test_the_last_lane_is_verified_as_well(small: Dataset) -> None:
    [program] = plan(trials(SweepConfig(TrainConfig(MLPConfig(hidden=(4,)), batch_size=32, epochs=2), (), 3)), Lanes())
    run = compile_program(program, small)

    def advance(state: Any, n: Any) -> Any:
        after = run.advance(state, n)
        return after._replace(params=jax.tree.map(lambda array: array.at[-1].mul(1.01), after.params))

    with pytest.raises(VerificationError, match=r"verify: trial 2: params\.dense\."):
        verify(program, run._replace(advance=advance), small, run.state, program.trials)


# ------------------------------------------------------------------------- runs


def test_a_verified_run_ends_as_one_that_is_not(small: Dataset) -> None:
    """Lanes that diverge are left out; a resumed run is verified from its state."""
    base = TrainConfig(MLPConfig(hidden=(4,)), SGD(), batch_size=32, epochs=2)
    sweep = SweepConfig(base, (("learning_rate", (1e30, 0.1)),))
    seen: list[Any] = []
    plain, verified = (
        cnnjax.sweep(sweep, small, lanes="1:1", pack="shapes", verify=check, progress=seen.append if check else False)
        for check in (False, True)
    )
    assert plain.rows == verified.rows
    assert [type(event) for event in seen if isinstance(event, Verifying | Verified)] == [Verifying, Verified]
    [worst] = [event.worst for event in seen if isinstance(event, Verified)]
    assert worst.share < 0.5


@pytest.mark.slow
def test_a_resumed_run_is_verified_from_its_state(small: Dataset) -> None:
    base = TrainConfig(MLPConfig(hidden=(4,)), SGD(), batch_size=32, epochs=3)
    store, seen = InMemory(), list[Any]()
    with pytest.raises(KeyboardInterrupt):
        cnnjax.fit(base, small, store=store, lanes="1:1", stop=lambda: True)
    cnnjax.fit(base, small, store=store, resume=True, verify=True, progress=seen.append)
    assert [type(event) for event in seen if isinstance(event, Verifying | Verified)] == [Verifying, Verified]


@pytest.mark.slow
def test_each_fold_is_verified_on_its_own_examples(small: Dataset) -> None:
    sweep = SweepConfig(TrainConfig(MLPConfig(hidden=(4,)), batch_size=32, epochs=1), (), folds=3)
    seen: list[Any] = []
    cnnjax.sweep(sweep, small, lanes="1:1", verify=True, progress=seen.append)
    assert len([event for event in seen if isinstance(event, Verified)]) == 3


def test_verify_must_be_a_switch(small: Dataset) -> None:
    with pytest.raises(ValueError, match="verify: 1: must be True or False"):
        cnnjax.fit(TrainConfig(MLPConfig()), small, verify=1)


@pytest.mark.slow
def test_the_command_verifies_parts_of_one_s_own(tmp_path: Path) -> None:
    preset = ROOT / "tests" / "presets" / "squeeze.py"
    short = ["--epochs", "1", "--lanes", "1:1", "--verify", "--name", "r"]
    done = script("train", preset, *short, "--dropout", "0.2", cwd=tmp_path)
    assert "verified: differs from float64 by at most 0.0" in done.stdout


WRONG = """
from flax import nnx

from cnnjax import NetworkConfig, SweepConfig, TrainConfig, config


class Careless(nnx.Module):
    def __init__(self, input_shape, outputs, *, rngs):
        self.dense = nnx.Linear(input_shape[0] * input_shape[1], outputs, rngs=rngs)

    def __call__(self, x):
        calls.append(0)
        return self.dense(x.reshape(len(x), -1)) * (1 + len(calls) / 10)


@config
class CarelessConfig(NetworkConfig):
    \"\"\"Its output depends on the number of calls.\"\"\"

    module = Careless


calls = []
train = TrainConfig(CarelessConfig(), data="digits", batch_size=32, epochs=1)
sweep = SweepConfig(train, ())
"""


@pytest.mark.slow
def test_the_command_stops_with_one_line_and_keeps_what_is_written(tmp_path: Path) -> None:
    """Each trace of this network computes something else, as if the program were wrong."""
    (tmp_path / "careless.py").write_text(WRONG)
    short = ["careless.py", "--lanes", "1:1", "--name", "r"]
    mistake("train", *short, "--verify", cwd=tmp_path, code=1, message="error: verify: ")
    assert (tmp_path / "runs" / "r" / "plan.json").exists()
    script("train", *short, "--resume", cwd=tmp_path)


# ------------------------------------------------------------------------- repeated calls

REPEAT = """
import sys, jax, numpy as np
from dataclasses import replace
from cnnjax import CNNConfig, SGD, SweepConfig, TrainConfig, load
from cnnjax.sweeps import compile_program, plan, trials
from cnnjax.training import Lanes

calls, lanes = int(sys.argv[1]), Lanes(*map(int, sys.argv[2].split(":")))
data = load("digits")
base = TrainConfig(CNNConfig(filters=tuple(map(int, sys.argv[3].split(",")))), SGD(), batch_size=64, epochs=1)
[program] = plan(trials(SweepConfig(base, (("learning_rate", (0.01, 0.1)),), 1)), lanes)
run = compile_program(program, data)
first = jax.tree.map(np.array, run.state)
seen = set()
for call in range(calls):
    after = run.advance(run.place(first), 2)
    found = jax.tree.map(np.array, (after, run.evaluate(after)) if call % 16 == 0 else (after,))
    seen.add((len(found), b"".join(leaf.tobytes() for leaf in jax.tree.leaves(found))))
print(len(seen), len(jax.devices()))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lanes", "filters", "count"),
    [("1:1", "16,32", 1), ("1:1", "16,32", 2), ("1:2", "8,16", 2), ("1:1:2", "8,16", 2)],
    ids=lambda value: str(value),
)
def test_repeated_calls_of_a_program_give_the_same_bits(lanes: str, filters: str, count: int) -> None:
    """https://github.com/jax-ml/jax/issues/39741: with several threads, a program gives different results."""
    variables = {"JAX_NUM_CPU_DEVICES": str(count), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", REPEAT, "2000", lanes, filters]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", str(count)], "one state, and one state with an evaluation"
