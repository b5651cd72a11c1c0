"""The progress of a run as it is shown: a bar on a terminal or in a notebook, plain lines elsewhere."""

import sys
import time
import warnings

from cnnjax.config import SweepConfig
from cnnjax.data import Dataset
from cnnjax.runs.events import Epoch, Event, Noted, Opened, Planned, Resumed, Saved
from cnnjax.runs.records import Row, has_diverged, result_of
from cnnjax.sweeps import Result, Stage, rank, shown, work

LINE_SECONDS, BAR_SECONDS = 10.0, 0.5


class Progress:
    """Shows events: a bar on a terminal or in a notebook, plain lines elsewhere.

    Args:
      sweep: what is trained.
      data: on which.
    """

    def __init__(self, sweep: SweepConfig, data: Dataset):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of notebooks without widgets, where a plain bar serves
            from tqdm.auto import tqdm
        self._lines = not sys.stderr.isatty() and "ipykernel" not in sys.modules
        self._alone = len(sweep.axes) == 0 and sweep.seeds == 1
        self._examples, self._metric = len(data.train.labels), sweep.base.metric
        self._total, self._done, self._before = work(sweep) * self._examples, 0, 0
        self._start = self._last = time.perf_counter()
        self._bar = tqdm(
            total=self._total,
            unit=" examples",
            unit_scale=True,
            disable=self._lines,
            dynamic_ncols=True,
            leave=False,
        )
        self._name = ""
        self._stage: Stage | None = None
        self._rows: dict[int, Row] = {}  # the last of each trial

    def __call__(self, event: Event) -> None:
        """Shows an event."""
        match event:
            case Opened(store):
                self._name = store.name
            case Planned(stage, _, why):
                self._stage = stage
                self._line(why)
            case Resumed(rows):
                self._rows.update((row["trial"], row) for row in rows)
                self._line(f"{self._name}: continues after {len(rows)} lines of metrics.jsonl")
                self._advance(len(rows), spent=False)
            case Epoch(program, epoch, rows):
                self._rows.update((row["trial"], row) for row in rows)
                self._advance(len(program.trials))
                if self._alone:
                    self._line(f"epoch {epoch}/{program.config.epochs}: {self.standing()}")
            case Saved(ended=True):
                if not self._alone:
                    self._line(f"{len(self._rows)} trials so far; {self.standing()}")
            case Noted(message):
                self._line(message)

    def standing(self) -> str:
        """The trials by status, and the best point so far."""
        if self._stage is None or not self._rows:
            return ""
        trials, metric = self._stage.trials, self._metric
        results: list[Result] = [
            result_of(trial, self._rows[trial.number], self._examples) for trial in trials if trial.number in self._rows
        ]
        if not results:
            return ""
        best = rank(results, metric)[0]
        valid = f"valid {metric.kind()} {shown(best.valid_metric, metric)} {best.name}".strip()
        if self._alone:
            return f"train loss {results[0].train_loss:.4f}, {valid}"
        diverged = sum(map(has_diverged, self._rows.values()))
        alive = len(trials) - sum(result.status == "diverged" for result in results)
        others = len(self._rows.keys() - {trial.number for trial in trials})
        stopped = others - diverged + len(trials) - alive if self._stage.after else 0
        return f"{alive} alive, {stopped} stopped, {diverged} diverged; best {valid}"

    def _advance(self, epochs: int, *, spent: bool = True) -> None:
        """Counts epochs of trials; without `spent` they were trained before."""
        now = time.perf_counter()
        before, self._done = self._done, self._done + epochs * self._examples
        if not spent or before == 0:  # before the first, programs were compiled
            self._start, self._before = now, self._done
        if not self._lines and now - self._last > BAR_SECONDS:
            self._bar.set_postfix_str(self.standing(), refresh=False)
            self._last = now
        self._bar.update(self._done - before)
        if self._lines and now - self._last > LINE_SECONDS and self._done > self._before:
            speed = (self._done - self._before) / (now - self._start)
            left = (self._total - self._done) / speed
            share = self._done / self._total
            self._line(f"{share:.0%} done, {left:.0f} s left, {speed:,.0f} examples/s; {self.standing()}")
            self._last = now

    def _line(self, message: str) -> None:
        """A line where there is no bar."""
        if self._lines and message:
            print(message, flush=True)

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()
