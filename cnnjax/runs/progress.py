"""Shows the progress of a run: a bar in a terminal or a notebook, plain lines elsewhere."""

import contextlib
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator

from cnnjax.config import SweepConfig
from cnnjax.data import Dataset, summary
from cnnjax.runs.events import (
    Compiled,
    Compiling,
    Epoch,
    Event,
    Noted,
    Opened,
    Planned,
    Resumed,
    Saved,
    Verified,
    Verifying,
    Within,
)
from cnnjax.runs.records import Counts, Row, has_diverged, result_of
from cnnjax.sweeps import Result, Stage, rank, shown, work

LINE_SECONDS, BAR_SECONDS = 10.0, 0.2
_BAR = 18  # minimum columns of the bar with its percentage


def in_lines() -> bool:
    """Returns whether progress is shown as plain lines: there is neither a terminal nor a notebook."""
    return not sys.stderr.isatty() and "ipykernel" not in sys.modules


@contextlib.contextmanager
def waiting(words: str, *, visible: bool = True) -> Iterator[None]:
    """Shows a message while the block runs; where progress is shown as plain lines, the message remains."""
    if visible and in_lines():
        print(words, flush=True)
    elif visible:
        print(f"{words}\r", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if visible and not in_lines():
            print(f"{' ' * len(words)}\r", end="", file=sys.stderr, flush=True)


class Progress:
    """Shows a summary of the data and the events of a run: a bar in a terminal or a notebook, plain lines elsewhere.

    Args:
      sweep: the configuration of the sweep.
      data: the data set.
      visible: whether to show anything.
      log: called with each line that is not printed, because there is a bar or `visible` is false.
    """

    def __init__(
        self,
        sweep: SweepConfig,
        data: Dataset,
        *,
        visible: bool = True,
        log: Callable[[str], None] = lambda line: None,
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without widgets, tqdm warns and shows a plain bar
            from tqdm.auto import tqdm
        self._prints, self._log = visible and in_lines(), log
        self._alone = len(sweep.axes) == 0 and sweep.repeats == 1
        self._counts, self._metric, self._epochs = Counts.of(data), sweep.base.metric, sweep.base.epochs
        self._examples = self._counts.train
        self._total, self._whole, self._part = work(sweep) * self._examples, 0, 0.0
        self._start, self._before = time.perf_counter(), 0.0  # time and examples when the first program is compiled
        self._last = self._start
        self._bar = tqdm(
            total=self._total,
            bar_format="{percentage:3.0f}%|{bar}| {desc}",
            disable=not visible or self._prints,
            dynamic_ncols=True,
            leave=False,
        )
        self._summary: Iterable[str] = summary(data) if visible else ()
        self._name = self._message = ""
        self._stage: Stage | None = None
        self._rows: dict[int, Row] = {}  # the last record of each trial

    def __call__(self, event: Event) -> None:
        """Shows an event."""
        match event:
            case Opened(store, complete):
                self._name = store.name
                for line in () if complete else self._summary:
                    self._bar.write(line)  # above the bar
                self._waiting("planning")
            case Planned(stage, _, why):
                self._stage = stage
                self._line(why)
            case Resumed(rows):
                self._rows.update((row["trial"], row) for row in rows)
                self._line(f"{self._name}: continues after {len(rows)} lines of metrics.jsonl")
                self._whole += len(rows) * self._examples
            case Compiling() | Verifying():
                self._waiting(event.message)
            case Compiled():
                self._ready()
            case Verified():
                self._line(event.message)
                self._ready()
            case Within() | Epoch():
                self._trained(event)
            case Saved(program, step, True):
                epochs = program.end - step // (self._examples // program.config.batch_size)
                self._total -= epochs * len(program.trials) * self._examples  # of trials that ended early
                self._bar.total = self._total
                if not self._alone:
                    self._line(self.standing())
            case Noted(message):
                self._line(message)

    def _ready(self) -> None:
        if self._before == 0:  # the time to plan, compile and verify does not count for the speed
            self._start = self._last = time.perf_counter()
            self._before = self._done

    def _trained(self, event: Within | Epoch) -> None:
        examples = len(event.program.trials) * self._examples
        if isinstance(event, Within):
            self._part = event.share * examples
        else:
            self._whole, self._part = self._whole + examples, 0.0
            self._rows.update((row["trial"], row) for row in event.rows)
        self._advance()
        if isinstance(event, Epoch) and self._alone:
            self._line(f"epoch {event.epoch}/{event.program.config.epochs}: {self.standing()}")

    @property
    def _done(self) -> float:
        """The number of examples trained so far, over all trials."""
        return self._whole + self._part

    def standing(self) -> str:
        """Returns the current results in one line; empty before the end of the first epoch."""
        best, name, counts = self._facts()
        if self._alone:
            return ", ".join([best, *counts])
        return f"{', '.join(counts)}; {best}{name and f' ({name})'}" if counts else ""

    def _facts(self) -> tuple[str, str, list[str]]:
        """Returns the best metric so far, the name of its point, and the nonzero counts of trials by status."""
        trials = self._stage.trials if self._stage else ()
        results: list[Result] = [
            result_of(trial, self._rows[trial.number], self._counts) for trial in trials if trial.number in self._rows
        ]
        if not results:
            return "", "", []
        best = rank(results, self._metric)[0]
        valid = f"valid {self._metric.kind()} {shown(best.valid_metric, self._metric)}"
        if self._alone:
            return valid, "", [f"train loss {results[0].train_loss:.4f}"]
        diverged = sum(map(has_diverged, self._rows.values()))
        left = self._rows.keys() - {trial.number for trial in trials}  # trials of earlier stages
        stopped = (
            sum(not has_diverged(self._rows[number]) for number in left) if self._stage and self._stage.after else 0
        )
        counts = {"trials": len(self._rows), "stopped": stopped, "diverged": diverged}
        return f"best {valid}", best.name, [f"{count} {name}" for name, count in counts.items() if count]

    def _remaining(self) -> list[str]:
        now = time.perf_counter()
        if self._done <= self._before or now <= self._start:
            return []
        return [_duration((self._total - self._done) * (now - self._start) / (self._done - self._before)) + " left"]

    def _waiting(self, words: str) -> None:
        if words != self._message:
            self._line(words)
        self._message = words
        self._bar.set_description_str(words)

    def _advance(self) -> None:
        """Updates the bar, or prints a line, at most every `BAR_SECONDS` or `LINE_SECONDS`."""
        now = time.perf_counter()
        if now - self._last < (LINE_SECONDS if self._prints else BAR_SECONDS):
            return
        self._last = now
        if self._prints:
            speed = (self._done - self._before) / (now - self._start)
            rest = [*self._remaining(), f"{speed:,.0f} examples/s"]
            words = ", ".join([f"{self._done / self._total:.0%} done", *rest])
            self._line("; ".join([words, *filter(None, [self.standing()])]))
        elif not self._bar.disable:
            epoch = min(1 + int(self._done / self._examples), self._epochs)
            pieces = [f"epoch {epoch}/{self._epochs}"] if self._alone else []
            columns = shutil.get_terminal_size().columns if "ipykernel" not in sys.modules else sys.maxsize
            self._bar.n = self._done
            best, name, counts = self._facts()
            pieces += [*self._remaining(), best, *counts, name]
            self._bar.set_description_str(_fitted(filter(None, pieces), columns - _BAR))

    def _line(self, message: str) -> None:
        """Prints a line if there is no bar, else logs it."""
        if message and self._prints:
            print(message, flush=True)
        elif message:
            self._log(message)

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()


def _fitted(pieces: Iterable[str], room: int) -> str:
    """Joins as many pieces as fit in `room` columns, in order."""
    words = ""
    for piece in pieces:
        longer = f"{words}, {piece}" if words else piece
        words = longer if len(longer) <= room else words
    return words


def _duration(seconds: float) -> str:
    """Formats a duration with about two digits, such as `48 s`, `12 min` or `3.4 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
