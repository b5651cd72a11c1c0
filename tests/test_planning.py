"""Laws of planning: how trials are carried out changes no number, and no trial is lost on the way."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import cnnjax
from cnnjax import (
    MLP,
    SGD,
    Adam,
    CNNConfig,
    CrossEntropy,
    InMemory,
    MLPConfig,
    NetworkConfig,
    SweepConfig,
    TrainConfig,
    config,
)
from cnnjax.data import Dataset, Spec, Split
from cnnjax.devices import free_memory
from cnnjax.planning import (
    Execution,
    Trialled,
    alternatives,
    describe_plan,
    fastest,
    in_cache,
    in_chunks,
    parse_lanes,
    planned,
    programs_in,
    read_plan,
    tune,
    works,
)
from cnnjax.planning.plan_file import WrittenPlan
from cnnjax.planning.timing import _unclear
from cnnjax.sweeps import Program, Stage, Trial, batch_split, compile_program, plan, search, trials
from cnnjax.training import Lanes, Task, as_arrays, begin, can_share, init, make_task, separable, single, step, train

BASE = TrainConfig(MLPConfig(hidden=(8,)), batch_size=32, epochs=1)
CNN = replace(BASE, network=CNNConfig(filters=(4,)))
NORMED = replace(BASE, network=CNNConfig(filters=(2,), batch_norm=True))
NOISY = replace(BASE, network=MLPConfig(hidden=(8,), dropout=0.2))


def seeds(count: int, base: TrainConfig = BASE, **axes: tuple) -> tuple[Trial, ...]:
    return trials(SweepConfig(base, tuple(axes.items()), count))


def numbers(programs: Sequence[Program]) -> list[int]:
    return sorted(trial.number for program in programs for trial in program.trials)


# ------------------------------------------------------------------------- micro-batches


@pytest.mark.parametrize(
    ("config", "lift"),
    [
        (BASE, Lanes(1, 2)),
        *(pytest.param(CNN, lift, marks=pytest.mark.slow) for lift in (single, Lanes(1, 2), Lanes(0, 1))),
    ],
)
def test_a_step_in_micro_batches_equals_the_whole_step(small: Dataset, config: TrainConfig, lift: Callable) -> None:
    batch, keys = Split(*(array[:32] for array in small.train)), jax.random.key(1)
    config = replace(config, optimizer=SGD(weight_decay=1e-2), loss=CrossEntropy(label_smoothing=0.1))

    def task(micro_batch: int) -> Task:
        one = as_arrays(make_task(config, small.spec, micro_batch))
        return one if lift is single else jax.tree.map(lambda number: np.stack([number] * 3), one)

    if lift is not single:
        keys = jax.random.split(keys, 3)
    state = begin(task(0), keys, lift)

    def end(micro_batch: int):
        whole = lift(lambda task, key, state, batch: step(task, key, 15, state, batch), batch)
        return jax.jit(whole)(task(micro_batch), keys, state)

    (whole, seen), (parts, counted) = end(0), end(8)
    for before, a, b in zip(*map(jax.tree.leaves, (state.params, whole.params, parts.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert not np.array_equal(before, b)
    np.testing.assert_allclose(seen.loss_sum, counted.loss_sum, rtol=1e-5)
    assert np.array_equal(seen.metric_sum, counted.metric_sum)
    assert np.array_equal(seen.examples, counted.examples)


@pytest.mark.parametrize(("config", "micro_batch"), [(BASE, 24), (BASE, 64), (NORMED, 16)])
def test_a_micro_batch_that_cannot_be_is_refused(small: Dataset, config: TrainConfig, micro_batch: int) -> None:
    task, key = make_task(config, small.spec, micro_batch), jax.random.key(0)
    state = jax.eval_shape(init, task, key)
    with pytest.raises(ValueError, match=f"micro_batch: {micro_batch}: must divide batch_size 32"):
        jax.eval_shape(step, task, key, 15, state, Split(*(array[:32] for array in small.train)))


@pytest.mark.parametrize(
    ("micro_batch", "expected"), [(0, True), (16, True), (32, True), (24, False), (64, False), (-16, False)]
)
def test_micro_batches_divide_the_batch(small: Dataset, micro_batch: int, expected: bool) -> None:
    assert works(Program(seeds(1), Lanes(), micro_batch), small.spec) is expected


def test_a_run_in_micro_batches_ends_as_one_in_whole_batches(small: Dataset) -> None:
    """Statistics of the optimizer included; the plan has them, so that a resumed run does not choose again."""
    base, store = replace(BASE, optimizer=Adam()), InMemory()
    whole = cnnjax.sweep(SweepConfig(base, (), 1), small, micro_batch=0)
    parts = cnnjax.sweep(SweepConfig(base, (), 1), small, micro_batch=8, store=store)
    assert [program["micro_batch"] for program in store.read_json("plan.json")["programs"]] == [8]
    for a, b in zip(*(jax.tree.leaves(swept.states[0]) for swept in (whole, parts)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    again = cnnjax.sweep(SweepConfig(base, (), 1), small, micro_batch=8, store=store, resume=True)
    assert again.rows == parts.rows


def test_micro_batches_that_are_asked_for_are_all_that_is_tried(small: Dataset) -> None:
    [program] = planned(
        SweepConfig(BASE, (), 2), next(search(SweepConfig(BASE, (), 2))), small, Execution(micro_batch=16)
    )
    assert {other.micro_batch for other in alternatives(program, small, micro_batches=False)} == {16}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batch": 24}, "micro_batch: 24: must divide the part of batch_size 32 on each device, and the network"),
        (
            {"micro_batch": 32, "lanes": "1:1:2"},
            "micro_batch: 32: must divide the part of batch_size 32 on each device",
        ),
        ({"micro_batch": -1}, "micro_batch: -1: must be at least 0"),
        ({"micro_batch": 8.0}, "micro_batch: 8.0: must be an integer"),
    ],
)
def test_micro_batches_that_cannot_be_are_refused_before_a_run(options: dict, message: str, small: Dataset) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        cnnjax.fit(BASE, small, **options)
    with pytest.raises(ValueError, match="must have no batch_norm or dropout"):
        cnnjax.fit(NORMED, small, micro_batch=16)
    with pytest.raises(ValueError, match=r"^micro_batch: 8: conflicts with plan_from plan\.json"):
        Execution(micro_batch=8, plan_from=Path("plan.json")).check()


@config
class Undeclared(NetworkConfig):
    """A network that says nothing of its examples."""

    module = MLP


@config
class Declared(Undeclared):
    """The same, which says that they are apart."""

    @property
    def per_example(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (CNN.network, True),
        (MLPConfig(hidden=(8,)), True),
        (NORMED.network, False),
        (NOISY.network, False),
        (MLPConfig(hidden=(8,), dropout=0.0), False),  # a lane of those with noise
        (Undeclared(), False),
        (Declared(), True),
    ],
)
def test_a_network_is_separable_that_is_per_example_and_keeps_no_statistics(
    small: Dataset, network: NetworkConfig, expected: bool
) -> None:
    run = replace(BASE, network=network)
    assert separable(make_task(run, small.spec)) is expected
    assert can_share(run, 2) is network.per_example
    assert works(Program(trials(SweepConfig(run, (), 1)), Lanes(), 16), small.spec) is expected
    if network.per_example:  # declared, and so: an output is that of its example alone
        functions, key = make_task(run, small.spec).functions, jax.random.key(0)
        inputs = small.spec.standardize(small.train.inputs[:4])
        variables = functions.init(key, inputs)
        outputs = [functions.apply(variables, x, train=not variables.stats, key=key)[0] for x in (inputs, inputs[:2])]
        np.testing.assert_allclose(outputs[0][:2], outputs[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "micro_batch"),
    [(CNN, 0), *(pytest.param(*way, marks=pytest.mark.slow) for way in ((NORMED, 0), (CNN, 8)))],
)
def test_devices_that_share_batches_come_to_the_numbers_of_one(
    small: Dataset, config: TrainConfig, micro_batch: int
) -> None:
    found = seeds(1, config, learning_rate=(0.02, 0.1), weight_decay=(1e-2,))
    [one], [shared] = plan(found, Lanes(1, 1)), plan(found, Lanes(1, 1, 2))
    a, b = (next(train(compile_program(p, small))) for p in (one, shared._replace(micro_batch=micro_batch)))
    for x, y in zip(jax.tree.leaves(a[2:]), jax.tree.leaves(b[2:]), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5)
    assert len(small.valid.labels) % config.batch_size
    assert np.array_equal(b.valid.examples, [len(small.valid.labels)] * 2)
    assert np.array_equal(a.train.examples, b.train.examples)


@pytest.mark.parametrize("config", [replace(BASE, batch_size=33), NOISY])
def test_batches_that_cannot_be_shared_are_refused(small: Dataset, config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="lanes: 2 devices cannot share a batch: use a number that divides batch_size"):
        make_task(config, small.spec, split=2)


@pytest.mark.parametrize(
    ("size", "devices", "expected"),
    [(64, 2, 2), (63, 2, 1), (63, 3, 1), (96, 3, 3), (96, 2, 2), (128, 16, 4), (16, 2, 1)],
)
def test_devices_without_a_lane_share_batches_of_enough_images(size: int, devices: int, expected: int) -> None:
    assert batch_split(replace(BASE, batch_size=size), devices) == expected
    assert batch_split(replace(NOISY, batch_size=size), devices) == 1


# ------------------------------------------------------------------------- the choice


def trialled(*ms: float) -> list[Trialled]:
    return [Trialled(Lanes(width), 0, value, 1.0) for width, value in enumerate(ms)]


@pytest.mark.parametrize(
    ("ms", "best"), [((1.0,), 0), ((1.0, 2.0), 0), ((1.0, 0.97), 0), ((1.0, 0.9, 0.5, 2.0), 2), ((0.5, 0.5), 0)]
)
def test_the_fastest_is_the_default_unless_it_is_beaten_by_more_than_noise(ms: tuple, best: int) -> None:
    timed = trialled(*ms)
    assert fastest(timed) is timed[best]


def test_a_short_sweep_is_carried_out_by_default(small: Dataset) -> None:
    programs = plan(seeds(3))
    chosen, timed = tune(programs, small)
    assert chosen == programs
    [only] = timed
    assert only[:2] == (programs[0].lanes, 0)
    assert only.ms > 0
    assert only.compile_s > 0


@pytest.mark.parametrize(
    ("network", "batch_size", "expected"),
    [
        (CNNConfig(filters=(16, 32)), 128, 16),
        (CNNConfig(filters=(16, 32)), 120, 0),  # no whole number of micro-batches
        (CNNConfig(filters=(2,)), 32, 0),  # in the cache as it is
        (CNNConfig(filters=(16, 32), batch_norm=True), 128, 0),
        (CNNConfig(filters=(16, 32), dropout=0.1), 128, 0),
        (MLPConfig(hidden=(3000,)), 512, 0),  # more parameters than activations
    ],
)
def test_a_batch_that_outgrows_the_cache_is_computed_in_parts(
    network: NetworkConfig, batch_size: int, expected: int
) -> None:
    split = Split(np.zeros((512, 28, 28, 1), np.uint8), np.zeros(512, np.int32))
    data = Dataset.of("large", ("a", "b"), split, split, split)
    [program] = plan(seeds(1, TrainConfig(network, batch_size=batch_size)), Lanes(1, 1))
    found = in_cache(program, data.spec)
    assert found == program._replace(micro_batch=expected)
    assert works(found, data.spec)


@pytest.mark.parametrize(
    ("turns", "unclear"),
    [
        ([[1.0, 2.0], [1.0, 2.05], [1.02, 2.1]], False),
        ([[1.0, 2.0], [1.0, 3.0], [1.02, 4.0]], False),  # neither the first nor the fastest
        ([[1.0, 0.5], [1.0, 0.5], [1.5, 0.5], [2.0, 0.5]], True),
        ([[1.0, 0.5], [1.0, 0.5], [1.0, 0.8], [1.0, 0.9]], True),
    ],
)
def test_timings_are_repeated_while_those_of_the_fastest_or_the_first_spread(turns: list, unclear: bool) -> None:
    assert _unclear(turns) is unclear


def test_the_first_alternative_is_another_number_of_devices_for_a_batch(small: Dataset) -> None:
    [program] = plan(seeds(1, replace(BASE, batch_size=64)), Lanes(1, 1))
    assert next(alternatives(program, small)) == program._replace(lanes=Lanes(1, 1, 2))
    assert next(alternatives(program._replace(lanes=Lanes(1, 1, 2)), small)) == program


def test_alternatives_keep_the_trials_and_change_one_thing(small: Dataset) -> None:
    [program] = plan(seeds(40), Lanes(1, 2))
    found = list(alternatives(program, small))
    assert {other.trials for other in found} == {program.trials}
    assert {(str(other.lanes), other.micro_batch) for other in found} >= {("1:2", 16), ("1:1", 0)}
    assert all((other.lanes == program.lanes) != (other.micro_batch == 0) for other in found)
    [program] = plan(seeds(40, NOISY), Lanes(1, 2))
    assert {other.micro_batch for other in alternatives(program, small)} == {0}


@pytest.mark.slow
def test_a_long_sweep_is_carried_out_as_is_fastest(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnjax.planning.timing._PAYS", 0)
    programs = plan(seeds(9), Lanes(1, 2))
    chosen, timed = tune(programs, small)
    ways = [way[:2] for way in timed]
    assert ways[0] == (Lanes(1, 2), 0)
    assert {(Lanes(1, 2), 16), (Lanes(1, 1), 0)} < set(ways)
    assert len(set(ways)) == len(ways)
    assert [program[1:3] for program in chosen] == [fastest(timed)[:2]]
    assert numbers(chosen) == list(range(9))


def test_what_serves_the_largest_program_spares_those_that_it_would_change(
    small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under micro-batches a network with noise would come to other numbers, and one with statistics to none."""
    monkeypatch.setattr("cnnjax.planning.timing.fastest", lambda timed: Trialled(Lanes(1, 2), 16, 0.1, 1.0))
    found = seeds(1, NOISY, learning_rate=(0.1, 0.2), dropout=(None, 0.2), batch_size=(32, 24))
    programs = plan(found[:5])
    chosen, _ = tune(programs, small)
    assert numbers(chosen) == list(range(5))
    for before, program in zip(programs, chosen, strict=True):
        assert program.trials == before.trials
        network, size = program.config.network, program.config.batch_size
        assert program.micro_batch == (0 if network.dropout is not None or size == 24 else 16)
        assert program.lanes == (Lanes(1, 2) if len(program.trials) > 1 else Lanes(1, 1))


# ------------------------------------------------------------------------- memory


def test_a_program_that_fits_stays_whole() -> None:
    [program] = plan(seeds(7), Lanes(1, 2))
    assert in_chunks(program, 100, 100) == (program,)


@pytest.mark.parametrize(
    ("devices", "available", "sizes"),
    [(2, 99, [6, 1]), (2, 60, [4, 3]), (2, 29, [2, 2, 2, 1]), (1, 99, [6, 1]), (1, 15, [1] * 7)],
)
def test_chunks_hold_every_trial_once_and_fit(devices: int, available: int, sizes: list[int]) -> None:
    """Seven trials that take 100 bytes a device."""
    [program] = plan(seeds(7), Lanes(1, devices))
    chunks = in_chunks(program, 100, available)
    assert [len(chunk.trials) for chunk in chunks] == sizes
    assert sum((chunk.trials for chunk in chunks), ()) == program.trials
    assert {chunk[1:] for chunk in chunks} == {program[1:]}
    assert all(100 * size / 7 <= available for size in sizes)
    assert all(size % devices == 0 for size in sizes[:-1])


def test_where_not_even_one_lane_fits_the_batch_is_named() -> None:
    mib = 2**20
    [program] = plan(seeds(10), Lanes(1, 1))
    message = "batch_size: 32: 1 trials need 100 MiB, but only 50 MiB may be used: use a batch size of 8, or increase --memory"
    with pytest.raises(ValueError, match=message):
        in_chunks(program, 1000 * mib, 50 * mib)
    [program] = plan(seeds(10), Lanes(1, 2))
    message = "batch_size: 32: 2 trials need 400 MiB, but only 100 MiB may be used: use a batch size of 4, or increase --memory"
    with pytest.raises(ValueError, match=message):
        in_chunks(program, 1000 * mib, 50 * mib)


@pytest.mark.slow
def test_a_chunk_s_trials_come_to_the_numbers_of_the_whole(small: Dataset) -> None:
    [program] = plan(seeds(1, learning_rate=(0.01, 0.05, 0.1, 0.2)), Lanes(0))
    run = compile_program(program, small)
    [whole] = train(run)
    chunks = in_chunks(program, 4, 2)
    assert len(chunks) == 2
    parts = [next(train(compile_program(chunk, small))) for chunk in chunks]
    together = jax.tree.map(lambda *arrays: np.concatenate(arrays), *(part[2:] for part in parts))
    for a, b in zip(jax.tree.leaves(whole[2:]), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_more_lanes_side_by_side_take_more_memory(small: Dataset) -> None:
    one, many = (compile_program(*plan(seeds(count), Lanes(0)), small).memory for count in (1, 4))
    assert 0 < one < many
    assert free_memory(1) > 0


# ------------------------------------------------------------------------- a plan on paper

SPEC = Spec((8, 8, 1), "uint8", tuple("0123456789"), (), "int32", np.zeros(1, np.float32), np.ones(1, np.float32))
TRIALS = seeds(2, filters=((4,), (6,)), base=CNN)  # two shapes, two seeds each


def test_a_plan_reads_as_it_was_written(tmp_path: Path) -> None:
    first, second = plan(TRIALS, Lanes(1, 2))
    programs = (first._replace(micro_batch=16), second._replace(lanes=Lanes(0, 1)))
    described = describe_plan(programs, trialled(1.0, 2.0))
    assert [way["lanes"] for way in described["timed"]] == ["0:1", "1:1"]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(described))
    assert programs_in(read_plan(path), Stage(TRIALS, 0, 0), SPEC) == programs


def entry(*numbers: int, **changes: object) -> dict:
    return {"lanes": "1:1", "micro_batch": 0, "trials": numbers, **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a plan: Expecting"),
        (b"\xff\xfe\xff", "not a plan: .*decode"),
        ([], "not a plan of these 4 trials"),
        ({}, "not a plan of these 4 trials: KeyError.'programs'"),
        ({"programs": 3}, "not a plan of these 4 trials"),
        ({"programs": [{"trials": [0, 1]}]}, "not a plan of these 4 trials: KeyError.'lanes'"),
        ({"programs": []}, "does not contain exactly the 4 trials of this run"),
        ({"programs": [entry(0, 1)]}, "does not contain exactly the 4 trials of this run"),
        ({"programs": [entry(0, 1), entry(2, 3, 4)]}, "not a plan of these 4 trials: KeyError"),
        ({"programs": [entry(0, 1, 1), entry(2, 3)]}, "does not contain exactly the 4 trials of this run"),
        ({"programs": [entry(0, 1), entry(2, 3), entry(0)]}, "does not contain exactly the 4 trials of this run"),
        ({"programs": [entry(0, 2), entry(1, 3)]}, "puts trials of different shapes into one program"),
        ({"programs": [entry(0, 1, lanes="all"), entry(2, 3)]}, "lanes: 'all': give auto, or"),
        ({"programs": [entry(0, 1, lanes=None), entry(2, 3)]}, "lanes: 'None': give auto, or"),
        (
            {"programs": [entry(0, 1, micro_batch="some"), entry(2, 3)]},
            "not a plan of these 4 trials: ValueError.*some",
        ),
    ],
)
def test_what_is_no_plan_of_these_trials_is_refused(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"plan: .*plan\.json: .*{message}"):
        programs_in(read_plan(path), Stage(TRIALS, 0, 0), SPEC)


@pytest.mark.parametrize("lanes", [Lanes(1, 2), Lanes(0, 1), Lanes(16, 1)])
def test_lanes_read_as_they_are_written(lanes: Lanes) -> None:
    assert parse_lanes(str(lanes)) == lanes
    assert parse_lanes(str(lanes.width)) == Lanes(lanes.width, jax.device_count())


@pytest.mark.parametrize("words", ["", ":", "nonsense", "auto", "1.5:1", "1:", "-1:1", "1:0"])
def test_lanes_that_cannot_be_are_refused(words: str) -> None:
    with pytest.raises(ValueError, match=f"lanes: '?{words}'?: give "):
        parse_lanes(words)


@pytest.mark.parametrize("words", ["1:2:3", "1:999"])
def test_devices_that_are_not_there_are_told_where_they_would_be_used(small: Dataset, words: str) -> None:
    """A plan for them can be read, and carried out on fewer."""
    lanes, count = parse_lanes(words), 6 if words == "1:2:3" else 999
    message = f"lanes: {words}: needs {count} devices, but JAX has 2 devices: on CPU, set JAX_NUM_CPU_DEVICES={count}"
    written = WrittenPlan("p", {"programs": [entry(0, 1, lanes=words), entry(2, 3)]})
    stage, sweep = Stage(TRIALS, 0, 0), SweepConfig(TRIALS[0].config, ())
    for use in (
        lambda: lanes.mesh,
        lambda: planned(sweep, stage, small, Execution(lanes=words)),
        lambda: planned(sweep, stage, small, Execution(), written),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            use()
    assert [program.lanes for program in programs_in(written, stage, small.spec)] == [lanes, Lanes(1, 1)]
    fewer = planned(sweep, stage, small, Execution(), written, devices=2)
    assert [program.lanes for program in fewer] == [Lanes(1, 2), Lanes(1, 1)]
