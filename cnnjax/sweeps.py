"""Many trials as few programs: points, trials, lanes, and what each came to.

A trial is one point (a choice of values) under one seed. Trials whose configurations have the same
tree structure, so that they differ only in numbers and seeds, are lanes of one compiled program.
Networks of one family that differ in their widths can be lanes of one program too: `plan` packs
them, by `cnnjax.embedding`.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnnjax import embedding, training
from cnnjax.config import Range, SweepConfig, TrainConfig
from cnnjax.data import Dataset, Spec
from cnnjax.networks import NetworkConfig
from cnnjax.training import Progress, Run, Task, TrainState, as_arrays, can_share, make_task, measure_test, train

_LEAST_EXAMPLES = 32  # of a batch on a device, where devices share it
MOST_TRIALS = 100_000


class Trial(NamedTuple):
    """One point under one seed."""

    number: int
    point: int
    values: tuple[tuple[str, Any], ...]
    config: TrainConfig


@dataclass(frozen=True)
class Lanes:
    """How a function of one trial becomes a function of many: a `training.Lift`.

    Lanes are distributed over `devices`, the last of them repeated where their number does not
    divide. On a device, `width` of them at a time run side by side under `vmap`, which fills an
    accelerator, and the groups one after the other inside the program, which is fastest on CPU;
    width 0 is all at once. A lane sees nothing of another. With `split`, each of the `devices` is
    that many, which share the batches of a lane (see `training.Task`).
    """

    width: int = 1
    devices: int = 1
    split: int = 1

    def __post_init__(self) -> None:
        if self.width < 0 or min(self.devices, self.split) < 1 or self.all_devices > jax.device_count():
            raise ValueError(
                f"lanes: {self}: give 0 or more lanes side by side, and 1 to {jax.device_count()} devices, as 1:1"
            )

    def __str__(self) -> str:
        return f"{self.width}:{self.devices}" + (f":{self.split}" if self.split != 1 else "")

    @property
    def all_devices(self) -> int:
        return self.devices * self.split

    @property
    def mesh(self) -> Mesh:
        shape, devices = (self.devices, self.split), jax.devices()[: self.all_devices]
        return jax.make_mesh(shape, ("lanes", training.AXIS), (AxisType.Auto,) * 2, devices=devices)

    def __call__(self, function: Callable[..., Any], *shared: Any) -> Callable[..., Any]:
        def mapped(lanes: Any, shared: Any) -> Any:
            if self.width == 0:
                return jax.vmap(lambda *lane: function(*lane, *shared))(*lanes)
            together = self.width if self.width > 1 else None
            return lax.map(lambda lane: function(*lane, *shared), lanes, batch_size=together)

        if self.all_devices == 1:
            return lambda *lanes: mapped(lanes, shared)

        spec = PartitionSpec("lanes")
        sharded = jax.shard_map(
            mapped, mesh=self.mesh, in_specs=(spec, PartitionSpec()), out_specs=spec, check_vma=False
        )

        def dealt(*lanes: Any) -> Any:
            count = jax.tree.leaves(lanes)[0].shape[0]
            if count % self.devices == 0:
                return sharded(lanes, shared)
            rows = jnp.minimum(jnp.arange(-(-count // self.devices) * self.devices), count - 1)
            repeated = jax.tree.map(lambda array: array[rows], lanes)
            return jax.tree.map(lambda array: array[:count], sharded(repeated, shared))

        return dealt

    def sharding(self, count: int) -> NamedSharding | None:
        """Where the arrays of so many lanes lie; None for the default device."""
        if self.all_devices == 1:
            return None
        return NamedSharding(self.mesh, PartitionSpec() if count % self.devices else PartitionSpec("lanes"))

    def place(self, data: Dataset) -> Dataset:
        """The data whose training and validation splits lie on every device that lanes run on."""
        if self.all_devices == 1:
            train, valid = jax.device_put((data.train, data.valid))
        else:
            train, valid = jax.device_put((data.train, data.valid), NamedSharding(self.mesh, PartitionSpec()))
        return data._replace(train=train, valid=valid)


class Program(NamedTuple):
    """One compiled shape and the trials that are its lanes."""

    trials: tuple[Trial, ...]
    lanes: Lanes
    micro_batch: int = 0
    """See `training.Task`."""
    wide: NetworkConfig | None = None
    """The network in which those of the trials are embedded, where their widths differ."""
    after: int = 0
    """Epochs that the trials have behind them."""
    until: int = 0
    """Epoch after which the program ends; 0 is the last."""
    spare: int = 0
    """Inactive lanes, besides those of the trials."""

    @property
    def config(self) -> TrainConfig:
        """What the trials share; numbers and seed are those of the first."""
        return self.config_of(self.trials[0])

    def config_of(self, trial: Trial) -> TrainConfig:
        """A trial's configuration in this program: in the wide network, where there is one."""
        config = trial.config
        return replace(config, network=embedding.as_wide(config.network, self.wide)) if self.wide else config

    @property
    def end(self) -> int:
        """Epoch after which it ends."""
        return self.until or self.config.epochs

    @property
    def rows(self) -> list[int]:
        """The lane of each trial, in order; where some are inactive, evenly spread over the devices."""
        count = len(self.trials)
        return [i * (count + self.spare) // count for i in range(count)]


Point = tuple[tuple[str, Any], ...]
"""The swept values, by name."""


def columns(sweep: SweepConfig) -> list[tuple[tuple[str, ...], Any]]:
    """What varies on its own: the names of an axis or of a zipped group, with rows of their values, or a range."""
    axes: dict[str, Any] = dict(sweep.axes)
    group_of = {name: group for group in sweep.zipped for name in group}
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, values in axes.items():
        group = group_of.get(name, (name,))
        if isinstance(values, Range):
            found.append((group, values))
        elif group[0] == name:
            found.append((group, tuple(zip(*(axes[name] for name in group), strict=True))))
    return found


def points(sweep: SweepConfig) -> list[Point]:
    """Every combination of the axes' values, the last axis varying fastest; or `sweep.points` drawn at random.

    Raises:
      ValueError: more points are asked for than there are.
    """
    grid = columns(sweep)
    if not sweep.points:
        every = itertools.product(*(rows for _, rows in grid))
        return list(
            dict.fromkeys(point_of(sweep, rows) for rows in every)
        )  # fewer, where parts have fields of their own
    rng, drawn = np.random.default_rng(sweep.base.seed), dict[Point, None]()
    for _ in range(100 * sweep.points):
        rows = [
            (rows.at(rng.random(), sweep.option(names[0]).whole),)
            if isinstance(rows, Range)
            else rows[rng.integers(len(rows))]
            for names, rows in grid
        ]
        drawn[point_of(sweep, rows)] = None
        if len(drawn) == sweep.points:
            return list(drawn)
    raise ValueError(f"points: {sweep.points}: there are only {len(drawn)} different ones")


def point_of(sweep: SweepConfig, rows: Iterable[tuple[Any, ...]]) -> Point:
    """The point of one row of each of the `columns`: the values that apply to the parts it has."""
    chosen = {
        name: value
        for (names, _), row in zip(columns(sweep), rows, strict=True)
        for name, value in zip(names, row, strict=True)
    }
    _, applied = sweep.run({name: chosen[name] for name, _ in sweep.axes})
    return tuple(applied.items())


def trials_of(sweep: SweepConfig, points: Sequence[Point], before: int = 0) -> tuple[Trial, ...]:
    """Points under every seed, seeds varying fastest.

    Seeds count up from the base run's, and are the same under every point.

    Args:
      sweep: whose base run and seeds are meant.
      points: the swept values.
      before: number of points before these; trials and points are counted on from there.

    Raises:
      ValueError: an axis is no option of the run, or a value is out of range.
    """
    found: list[Trial] = []
    for i, point in enumerate(points, before):
        config, _ = sweep.run({**dict.fromkeys(sweep.paths), **dict(point)})
        found += [
            Trial(i * sweep.seeds + seed, i, point, replace(config, seed=config.seed + seed))
            for seed in range(sweep.seeds)
        ]
    return tuple(found)


def trials(sweep: SweepConfig) -> tuple[Trial, ...]:
    """The `points` of a sweep under every seed.

    Raises:
      ValueError: an axis is no option of the run, a value is out of range, or there are too many.
    """
    count = (sweep.points or math.prod(len(rows) for _, rows in columns(sweep))) * sweep.seeds
    if count > MOST_TRIALS:
        raise ValueError(f"seeds: {sweep.seeds}: {count} trials in all; at most {MOST_TRIALS} are planned at once")
    return trials_of(sweep, points(sweep))


def structure(config: TrainConfig) -> Any:
    """What trials must share to be lanes of one program: all but numbers and seed."""
    return jax.tree.structure(replace(config, seed=0))


def shares(config: TrainConfig, devices: int) -> int:
    """How many of so many CPU devices are worth sharing a batch: 1 unless each has enough examples of its own."""
    most = min(devices, config.batch_size // _LEAST_EXAMPLES)
    return max([1, *(n for n in range(2, most + 1) if can_share(config, n))])


def default_lanes(config: TrainConfig, count: int) -> Lanes:
    """One lane after the other on CPU, all side by side elsewhere, over all devices.

    Where there are more CPU devices than lanes, those that are left share batches.
    """
    devices = min(jax.device_count(), count)
    if jax.default_backend() != "cpu":
        return Lanes(0, devices)
    return Lanes(1, devices, shares(config, jax.device_count() // devices))


PACKS: Mapping[str, Callable[[NetworkConfig], NetworkConfig]] = {
    "shapes": lambda network: network,
    "buckets": embedding.rounded,
    "one": embedding.family,
}


def plan(
    trials: Sequence[Trial],
    lanes: Lanes | None = None,
    pack: str = "shapes",
    *,
    spec: Spec | None = None,
    strict: bool = True,
    capacity: int = 0,
) -> tuple[Program, ...]:
    """Groups trials into programs: one for all that differ only in numbers and seed.

    Args:
      trials: what is to be trained.
      lanes: how they are lifted; by default `default_lanes`.
      pack: which widths share a program, the narrow networks embedded in the widest: those that are
        equal (`shapes`), that have the same powers of two above them (`buckets`), or all (`one`).
      spec: what the data is; needed where widths are packed.
      capacity: lanes of every program, so that a later one of the same shape with other trials need
        not be compiled; fewer where inactive lanes cost time (see `spare_lanes`).
      strict: whether a network that cannot be embedded is an error; else it has a program of its own.

    Raises:
      ValueError: networks of several widths are to be packed that cannot be.
    """
    groups: dict[Any, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(structure(trial.config), []).append(trial)
    if pack != "shapes":
        groups = _packed(groups, pack, spec, strict)
    programs = []
    for group in groups.values():
        lifted = lanes or default_lanes(group[0].config, max(len(group), capacity))
        spare = spare_lanes(lifted, len(group), capacity)
        wide = _widest([trial.config.network for trial in group])
        programs.append(Program(tuple(group), lifted, wide=wide, spare=spare))
    return tuple(programs)


def _packed(
    groups: Mapping[Any, Sequence[Trial]], pack: str, spec: Spec | None, strict: bool
) -> dict[Any, list[Trial]]:
    """Groups of equal structure, merged where networks can be embedded in a wider one."""
    families: dict[Any, list[Any]] = {}
    for key, (first, *_) in groups.items():
        family = replace(first.config, network=embedding.family(first.config.network))
        families.setdefault(structure(family), []).append(key)
    merged: dict[Any, list[Trial]] = {}
    for keys in families.values():
        config = groups[keys[0]][0].config
        why = len(keys) > 1 and embedding.obstacle(config.network, config.optimizer, spec)
        if why and strict:
            raise ValueError(f"pack: {pack}: {why}: use auto, which embeds where it can, or shapes")
        for key in keys:
            config = groups[key][0].config
            shape = key if why else structure(replace(config, network=PACKS[pack](config.network)))
            merged.setdefault(shape, []).extend(groups[key])
    return {shape: sorted(members) for shape, members in merged.items()}


def spare_lanes(lanes: Lanes, trials: int, capacity: int) -> int:
    """Inactive lanes beside those of trials, so that few numbers of lanes are compiled.

    Where lanes run one after the other, inactive ones cost nothing: up to the capacity. Where they
    run side by side: up to a power of two.
    """
    if lanes.width == 1 or capacity <= trials:
        return max(0, capacity - trials)
    return min(capacity, max(lanes.devices, 1 << (trials - 1).bit_length())) - trials


def _widest(networks: Sequence[NetworkConfig]) -> NetworkConfig | None:
    return embedding.widest(networks) if len(set(map(embedding.widths, networks))) > 1 else None


def compact(program: Program, trials: Sequence[Trial], after: int, until: int) -> Program:
    """The program in which some of its trials continue; the lanes of the others are inactive, or dropped."""
    spare = spare_lanes(program.lanes, len(trials), len(program.trials) + program.spare)
    return program._replace(trials=tuple(trials), after=after, until=until, spare=spare)


def proceed(trials: Iterable[Trial], carried: Sequence[Program], after: int, until: int) -> tuple[Program, ...]:
    """The programs in which trials continue that trained in some of these before."""
    members = homes([trial.number for trial in trials], carried)
    return tuple(compact(carried[place], members[place], after, until) for place in sorted(members))


def homes(trials: Collection[int], carried: Sequence[Program]) -> dict[int, list[Trial]]:
    """The places of the programs in which trials, by number, trained last, and which of them in each."""
    wanted, found = set(trials), dict[int, list[Trial]]()
    for place in reversed(range(len(carried))):
        if members := [trial for trial in carried[place].trials if trial.number in wanted]:
            wanted -= {trial.number for trial in members}
            found[place] = members
    return found


def task_of(program: Program, spec: Spec, trial: Trial | None = None) -> Task:
    """The task of a program, with the numbers of one of its trials, by default the first."""
    config = program.config_of(trial) if trial else program.config
    return make_task(config, spec, program.micro_batch, program.lanes.split)


def stacked(program: Program, spec: Spec) -> tuple[Task, Array]:
    """The tasks and keys of a program's trials, lanes first; inactive lanes repeat the first trial."""
    lanes = [program.trials[0]] * (len(program.trials) + program.spare)
    for row, trial in zip(program.rows, program.trials, strict=True):
        lanes[row] = trial
    keys = jnp.stack([jax.random.key(trial.config.seed) for trial in lanes])
    tasks = {trial.number: task_of(program, spec, trial) for trial in program.trials}
    every = (tasks[trial.number] for trial in lanes)
    return jax.tree.map(lambda *numbers: np.stack(numbers), *map(as_arrays, every)), keys


def prepare(program: Program, data: Dataset, begun: bool = False) -> Run:
    """Compiles a program and initializes its lanes; with `begun`, their state comes from elsewhere.

    Networks of several widths are initialized in their own shapes, as if they were alone.
    """
    task, keys = stacked(program, data.spec)
    placed, epochs = program.lanes.place(data), program.config.epochs
    state: TrainState | None = None
    if begun or program.after:
        state = state_of(program, data.spec)
    elif program.wide or program.spare:
        alone: dict[int, TrainState] = {}
        capacity = len(program.trials) + program.spare if program.spare else 0
        for group in plan(program.trials, program.lanes, capacity=capacity):
            first = training.begin(*stacked(group, data.spec), group.lanes)
            alone |= states_of(group, first, group.trials, data.spec)
        state = assembled(program, alone, data.spec)
    return training.prepare(task, keys, placed, epochs, program.lanes, state)


def state_of(program: Program, spec: Spec) -> TrainState:
    """The shapes and types of a program's state, lanes first, without computing anything."""
    return jax.eval_shape(jax.vmap(training.init), *stacked(program, spec))


def states_of(program: Program, state: TrainState, trials: Iterable[Trial], spec: Spec) -> dict[int, TrainState]:
    """The states of some of a program's trials, by number, each in the shapes of its own network."""
    state = jax.tree.map(np.asarray, state)
    wanted = {trial.number for trial in trials}
    shapes: dict[Any, TrainState] = {}
    found: dict[int, TrainState] = {}
    for row, trial in zip(program.rows, program.trials, strict=True):
        if trial.number not in wanted:
            continue
        lane = jax.tree.map(lambda array, row=row: array[row], state)
        if program.wide:
            widths = embedding.widths(trial.config.network)
            if widths not in shapes:
                shapes[widths] = _first(state_of(Program((trial,), Lanes()), spec))
            lane = embedding.extract(lane, shapes[widths])
        found[trial.number] = lane
    return found


def _first(state: TrainState) -> TrainState:
    """The shapes of one lane."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), state)


def assembled(program: Program, states: Mapping[int, TrainState], spec: Spec) -> TrainState:
    """A program's state from those of its trials, by number; inactive lanes are marked as diverged."""
    like = state_of(program, spec)
    lanes = [embedding.embed(states[trial.number], _first(like)) for trial in program.trials]
    rows = [lanes[0]._replace(diverged=np.ones((), bool))] * (len(lanes) + program.spare)
    for row, lane in zip(program.rows, lanes, strict=True):
        rows[row] = lane
    return jax.tree.map(lambda array, *rows: np.stack(rows).astype(array.dtype), like, *rows)


def run(program: Program, data: Dataset) -> Iterator[Progress]:
    """Trains the lanes of a program together; yields after each epoch, arrays [lanes, ...]."""
    yield from train(prepare(program, data))


class Result(NamedTuple):
    """What a trial came to. Numbers that do not exist are NaN."""

    trial: Trial
    status: str
    """`complete`, `diverged`, or `stopped`: not at its last epoch."""
    step: int
    epochs: int
    """Whole epochs, before it diverged if it did."""
    train_loss: float
    valid_loss: float
    valid_metric: float


def results(program: Program, progress: Progress) -> list[Result]:
    """The results of a program's trials as they stand; a diverged trial has no numbers."""
    lanes = (progress.train, progress.valid, progress.state.diverged, progress.state.step)
    train, valid, gone, steps = jax.tree.map(lambda array: np.asarray(array)[program.rows], lanes)
    with np.errstate(invalid="ignore"):  # a diverged trial sees no examples
        train, valid = jax.tree.map(lambda array: array.astype(float), (train, valid))
        numbers = np.stack([train.loss, valid.loss, valid.metric], 1)
    diverged = gone | ~np.isfinite(numbers).all(1)
    numbers[diverged] = math.nan
    epochs = np.where(diverged, steps * progress.epoch // progress.steps, progress.epoch)
    ended = "complete" if progress.epoch == program.config.epochs else "stopped"
    status = np.where(diverged, "diverged", ended)
    rows = zip(program.trials, status.tolist(), steps.tolist(), epochs.tolist(), numbers.tolist(), strict=True)
    return [Result(trial, status, step, epoch, *row) for trial, status, step, epoch, row in rows]


def measure_test_of(
    trials: Sequence[Trial], states: Mapping[int, TrainState], data: Dataset
) -> dict[int, tuple[float, float]]:
    """Test metric and loss of trials, by number, from their last states; to be read once."""
    found: dict[int, tuple[float, float]] = {}
    for program in plan(trials):
        state = assembled(program, states, data.spec)
        metrics = measure_test(stacked(program, data.spec)[0], state, data, program.lanes)
        for trial, metric, loss in zip(program.trials, metrics.metric.tolist(), metrics.loss.tolist(), strict=True):
            found[trial.number] = metric, loss
    return found
