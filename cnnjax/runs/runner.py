"""The training loop over the stages, programs and epochs of a sweep. A single run is a sweep of one trial.

A stopped run is resumed from its store, and ends with the same records and tables as an uninterrupted
one. Lines of `metrics.jsonl` are written before the state of the same step, so that no state is ahead
of its records.
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from functools import partial

import jax
import numpy as np

from cnnjax.config import SweepConfig
from cnnjax.data import Dataset
from cnnjax.devices import agreed, free_memory, threads
from cnnjax.planning import (
    Execution,
    WrittenPlan,
    choose_packing,
    describe_plan,
    describe_timed,
    in_chunks,
    largest_of,
    planned,
    read_plan,
    tune,
    verify,
)
from cnnjax.runs.checkpoints import Checkpoint, CheckpointError
from cnnjax.runs.events import (
    Compiled,
    Compiling,
    Epoch,
    Event,
    Finished,
    Noted,
    Planned,
    Resumed,
    Saved,
    Verified,
    Verifying,
    Within,
)
from cnnjax.runs.records import Counts, Row, epoch_rows, has_diverged, is_over, plain, read_folds, result_of
from cnnjax.runs.resume import last_state, lines_up_to, reached
from cnnjax.runs.store import States, Store
from cnnjax.runs.swept import LastStates, Swept
from cnnjax.sweeps import (
    Program,
    Result,
    Stage,
    Trial,
    assembled,
    compile_program,
    measure_test_of,
    rank,
    stages,
    state_of,
)
from cnnjax.training import Lanes, Run, TrainState, count_parameters, measured, parts, pausing

Stop = Callable[[], bool]
"""A function that is called between dispatches; if it returns true, the run saves its state and stops."""


def run(
    sweep: SweepConfig,
    data: Dataset,
    store: Store,
    execution: Execution | None = None,
    *,
    stop: Stop = lambda: False,
    any_config: bool = False,
) -> Iterator[Event]:
    """Trains all stages of a sweep, writes a line of `metrics.jsonl` per trial and epoch, and tests the winner.

    Training continues from the records and states in the store. A diverged trial has one line with nulls
    for the epoch in which it diverged, and no later lines. The test split is read once, for the winner.

    Args:
      sweep: the configuration of the sweep.
      data: the data set, with the folds of the sweep (`cnnjax.data.folded`).
      store: the store for records and states; `begin` must have written its first records.
      execution: the execution settings.
      stop: called after each dispatch; once it returns true, the state is saved and the run ends.
      any_config: whether to accept states of another configuration.

    Yields:
      Events. The last one is `Finished`, or `Saved` if the run was stopped.

    Raises:
      ValueError: if a stage cannot be run, for example because one lane does not fit in memory.
      RecordError, CheckpointError: if the contents of the store are damaged.
      VerificationError: if `execution.verify` finds that a compiled program is wrong.
    """
    yield from _Runner(sweep, data, store, execution or Execution(), stop, any_config).events()


class _Runner:
    """The state of a run in progress."""

    def __init__(
        self, sweep: SweepConfig, data: Dataset, store: Store, execution: Execution, stop: Stop, any_config: bool
    ):
        self.sweep, self.data, self.store, self.execution = sweep, data, store, execution
        self.stop, self.any_config = stop, any_config
        before = store.read_json("plan.json")
        self.notes = {name: before[name] for name in ("pack", "timed") if before and name in before}
        self.resumed = before is not None
        self.programs: list[Program] = []  # finished programs, by number
        self.trials: dict[int, Trial] = {}
        lines = store.metrics()
        self.recorded = lines if lines or self.resumed else None  # None once all records are taken
        self.rows: list[Row] = []
        self.last: dict[int, Row] = {}  # the last line of each trial
        self.best: dict[int, tuple[float, int]] = {}  # the lowest cost of each trial, and its epoch
        self.epochs: dict[int, int] = {}  # epochs trained before the run was resumed, by trial
        self.messages: list[str] = []

    def events(self) -> Iterator[Event]:
        for stage in stages(self.sweep, self._result):
            self.trials |= {trial.number: trial for trial in stage.trials}
            programs, checkpoint = self._planned(stage), None
            if self.recorded is not None:
                programs, checkpoint = yield from self._taken(programs)
            for event in self._compiled(stage, programs, checkpoint is not None):
                yield event
                if isinstance(event, Compiled):
                    ended = yield from self._trained(event.program, event.run, checkpoint)
                    if not ended:
                        return
                    checkpoint = None
        if self.recorded is not None:  # all trials were trained before; drop an unfinished last line
            self.store.cut_metrics(len(self.rows))
        swept = self._swept()
        yield from self._noted()
        yield Finished(swept)

    # ------------------------------------------------------------------ results and states

    def _result(self, trial: Trial) -> Result:
        return result_of(trial, self.last[trial.number], Counts.of(self.data))

    def _states(self, number: int, program: Program) -> States:
        trials, execution = [trial.number for trial in program.trials], self.execution
        keep = {"latest": execution.keep_latest, "best": execution.keep_best}
        return self.store.states(number, trials, **keep, report=self.messages.append, any_config=self.any_config)

    def _noted(self) -> Iterator[Noted]:
        while self.messages:
            yield Noted(self.messages.pop(0))

    def _take(self, rows: Sequence[Row]) -> None:
        self.rows += rows
        self.last.update((row["trial"], row) for row in rows)
        for row in rows:
            self.best[row["trial"]] = self._best_of(row)

    def _best_of(self, row: Row) -> tuple[float, int]:
        """Returns the lowest cost of a trial up to a line, and the first epoch that has it."""
        metric = self.sweep.base.metric
        cost = math.inf if has_diverged(row) else metric.cost(row[f"valid_{metric.name}"])
        return min(self.best.get(row["trial"], (math.inf, 0)), (cost, row["epoch"]))

    def _over(self, program: Program) -> np.ndarray:
        """Returns which trials of a program have diverged or stopped early."""
        return np.array([is_over(self.last.get(trial.number), trial) for trial in program.trials])

    # ------------------------------------------------------------------ planning and resuming

    def _planned(self, stage: Stage) -> tuple[Program, ...]:
        """Returns the programs of a stage: from the plan of the store, from a given plan, or newly planned."""
        source = devices = None
        if self.resumed:
            devices = jax.device_count()  # `begin` has checked whether fewer devices are allowed
            source = WrittenPlan(f"{self.store.name}/plan.json", self.store.read_json("plan.json"))
        elif self.execution.plan_from:
            source = read_plan(self.execution.plan_from)
        elif "pack" not in self.notes:
            self.notes["pack"] = choose_packing(stage, self.data, self.execution)._asdict()
        pack = self.notes.get("pack", {}).get("pack")
        return planned(self.sweep, stage, self.data, self.execution, source, self.programs, pack, devices)

    def _taken(
        self, programs: Sequence[Program]
    ) -> Generator[Event, None, tuple[tuple[Program, ...], Checkpoint | None]]:
        """Takes a stage's records from the store; returns the remaining programs and the state of the first."""
        assert self.recorded is not None
        before = len(self.programs)
        found = reached(programs, self.recorded, self.data, lambda i: self._states(before + i, programs[i]))
        yield from self._noted()
        self.epochs |= found.epochs
        rows = lines_up_to(self.epochs, self.recorded, self.store.name)
        self._take(rows[len(self.rows) :])
        self.programs += programs[: found.finished]
        rest = tuple(programs[found.finished :])
        if rest:
            self.recorded = None
            self.store.cut_metrics(len(rows))
            self.store.drop_states(len(self.programs), found.checkpoint.step if found.checkpoint else -1)
            if rows:
                yield Resumed(rows)
        return rest, found.checkpoint

    # ------------------------------------------------------------------ compiling

    def _compiled(self, stage: Stage, programs: Sequence[Program], started: bool) -> Iterator[Event]:
        """Yields each program with its compiled run; the next programs compile while one trains.

        With `started`, the first program has a checkpoint with all of its lanes and is not split. The plan
        is written to `plan.json` before the first program trains, and again if a program needs more memory
        than is available.
        """
        if not programs:
            return
        with threads(ahead := os.cpu_count() or 1) as pool:
            pool.submit(self.store.preload)

            def start(program: Program) -> Future[Run]:
                return pool.submit(compile_program, program, self.data, started and program is programs[0])

            available = self._memory(programs)
            compiling: dict[Program, Future[Run]] = {}
            if self.execution.lanes == "auto" and not self.execution.plan_from and "timed" not in self.notes:
                largest = largest_of(programs)
                compiling = {program: start(program) for program in programs[:ahead] if program is not largest}
                yield Compiling(1, len(programs))
                others = self.execution.micro_batch is None
                programs, timed = tune(programs, self.data, tuple(compiling.values()), available, others)
                self.notes["timed"] = describe_timed(timed)
            self._write_plan(programs)
            yield Planned(stage, tuple(programs))
            waiting = deque((program, compiling.pop(program, None)) for program in programs)
            compiling.clear()
            count = len(waiting)
            try:
                while waiting:
                    for i in range(min(ahead, len(waiting))):
                        program, future = waiting[i]
                        waiting[i] = program, future or start(program)
                    program, future = waiting.popleft()
                    assert future is not None
                    if not future.done():
                        yield Compiling(count - len(waiting), count)
                    run = future.result()
                    chunks = (
                        (program,) if started else in_chunks(program, run.memory, available(program.lanes.all_devices))
                    )
                    started = False
                    if chunks == (program,):
                        yield Compiled(program, run)
                        continue
                    count += len(chunks) - 1
                    waiting.extendleft((chunk, None) for chunk in reversed(chunks))
                    rest = tuple(program for program, _ in waiting)
                    self._write_plan(rest)
                    yield Planned(stage, rest, _why(program, run, chunks))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _memory(self, programs: Sequence[Program]) -> Callable[[int], int]:
        """Returns available(n): the bytes that a program on n devices may currently use on each of them."""
        free = {n: free_memory(n) for n in {1, *(program.lanes.all_devices for program in programs)}}

        def available(devices: int) -> int:
            if self.execution.memory is not None:
                return int(self.execution.memory * 2**30 / devices)
            return free.get(devices, free[1] // devices)

        return available

    def _write_plan(self, programs: Iterable[Program]) -> None:
        described = describe_plan([*self.programs, *programs])
        self.store.write_json("plan.json", {**described, **self.notes}, again=True)
        self.resumed = True

    # ------------------------------------------------------------------ training

    def _trained(self, program: Program, run: Run, checkpoint: Checkpoint | None) -> Generator[Event, None, bool]:
        """Trains a program; returns false if it was stopped before its end."""
        paused = np.zeros(len(program.trials) + program.spare, bool)
        paused[program.rows] = self._over(program)
        run = pausing(run, paused)
        with closing(self._states(len(self.programs), program)) as states:
            first, after = self._first(program, run, checkpoint)
            active = [trial for trial, over in zip(program.trials, self._over(program), strict=True) if not over]
            if self.execution.verify and active and after < program.end * run.steps:
                yield Verifying(program)
                yield Verified(program, verify(program, run, self.data, first, active))
            saved, metric = time.monotonic(), None
            for step, state in parts(run, first, after):
                whole = step % run.steps == 0
                if whole:
                    epoch = self._recorded(program, run, step, state)
                    yield epoch
                    metric = self._best(epoch.rows)
                    paused[program.rows] = self._over(program)
                else:
                    yield Within(program, step, step % run.steps / run.steps)
                ended = whole and (step == program.end * run.steps or bool(paused[program.rows].all()))
                every = self.execution.save_seconds
                due = time.monotonic() - saved >= every and (whole or every > 0)
                stop, due = bool(agreed(self.stop())), bool(agreed(due))
                if ended or due or stop:
                    self.store.sync_metrics()
                    states.save(step, state, metric if whole else None)
                    saved = time.monotonic()
                    yield Saved(program, step, ended)
                if ended or stop:
                    break
        self.programs.append(program)
        return not stop

    def _first(self, program: Program, run: Run, checkpoint: Checkpoint | None) -> tuple[TrainState, int]:
        """Returns the state from which a program continues, and its step."""
        if checkpoint:
            return run.place(checkpoint.state), checkpoint.step
        if program.after:
            before = self._last_states().of(trial.number for trial in program.trials)
            return run.place(assembled(program, before, self.data.spec)), program.after * run.steps
        return run.state, 0

    def _recorded(self, program: Program, run: Run, step: int, state: TrainState) -> Epoch:
        """Evaluates an epoch, and writes its lines."""
        every = plain(epoch_rows(program, measured(run, step, state)))
        over = self._over(program)
        rows = [row for row, done in zip(every, over, strict=True) if not done]
        for row in rows:
            if self.trials[row["trial"]].config.patience is not None:
                row["best_epoch"] = self._best_of(row)[1]
        self.store.append_metrics(rows)
        self._take(rows)
        return Epoch(program, step // run.steps, rows)

    def _best(self, rows: Sequence[Row]) -> float | None:
        metric = self.sweep.base.metric
        return max((-metric.cost(row[f"valid_{metric.name}"]) for row in rows if not has_diverged(row)), default=None)

    # ------------------------------------------------------------------ the outcome

    def _last_states(self) -> LastStates:
        programs = tuple(self.programs)
        return LastStates(programs, partial(self._end, programs), self.data.spec)

    def _end(self, programs: Sequence[Program], number: int) -> TrainState:
        states = self._states(number, programs[number])
        state = last_state(states, programs[number], self.data, self.last)
        if state is None:
            raise CheckpointError(
                f"{self.store.name}: the last checkpoint of program {number} is damaged or missing: resume the run to "
                "train from the one before it"
            )
        return state

    def _swept(self) -> Swept:
        metric = self.sweep.base.metric
        points = rank([self._result(trial) for trial in self.trials.values()], metric)
        best, states = points[0].results, self._last_states()
        tested = () if self.sweep.shard else best  # the winner of a shard may not be that of the sweep
        complete = [result.trial for result in tested if result.status == "complete"]
        last = states.of(trial.number for trial in complete)
        tests = measure_test_of(complete, last, self.data)
        averaged = [trial for trial in complete if trial.config.ema is not None]
        ema_tests = measure_test_of(averaged, {n: state.averaged for n, state in last.items()}, self.data)
        alone = count_parameters(state_of(Program((best[0].trial,), Lanes()), self.data.spec))
        where = self.store.name
        folds = read_folds(self.store.read_json("data.json") or {})
        words = self.data.vocabulary
        return Swept(
            points, self.rows, states, tests, alone, self.sweep, self.data.spec, where, ema_tests, folds, words
        )


def _why(program: Program, run: Run, chunks: Sequence[Program]) -> str:
    gib = program.lanes.all_devices * run.memory / 2**30
    return (
        f"memory: {len(program.trials)} trials need {gib:.3g} GiB: split into {len(chunks)} programs of at most "
        f"{len(chunks[0].trials)} trials"
    )
