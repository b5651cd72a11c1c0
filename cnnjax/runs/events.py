"""The events of a run, which `run` yields and front ends show."""

from typing import NamedTuple

from cnnjax.planning import Difference
from cnnjax.runs.records import Row
from cnnjax.runs.store import Store
from cnnjax.runs.swept import Swept
from cnnjax.sweeps import Program, Stage
from cnnjax.training import Run


class Opened(NamedTuple):
    """The store of the run is open."""

    store: Store
    complete: bool
    """Whether the run had already finished, including its summary."""


class Planned(NamedTuple):
    """The programs that remain to be trained in a stage are planned."""

    stage: Stage
    programs: tuple[Program, ...]
    why: str = ""
    """The reason for a changed plan."""


class Resumed(NamedTuple):
    """Training continues after the records of an earlier process."""

    rows: list[Row]


class Compiling(NamedTuple):
    """The run waits for a program to compile."""

    place: int
    """The number of the program, starting at 1."""
    programs: int
    """The number of programs that this process trains in the stage."""

    @property
    def message(self) -> str:
        return f"compiling {self.place} of {self.programs}" if self.programs > 1 else "compiling"


class Compiled(NamedTuple):
    """A program is compiled and trains next."""

    program: Program
    run: Run


class Verifying(NamedTuple):
    """A step and an evaluation of a program are compared with float64 without compilation."""

    program: Program

    @property
    def message(self) -> str:
        return "verifying"


class Verified(NamedTuple):
    """The compiled program is right, and trains next."""

    program: Program
    worst: Difference
    """The largest difference, relative to its tolerance."""

    @property
    def message(self) -> str:
        return f"verified: differs from float64 by at most {self.worst.share:.2g} of the tolerance ({self.worst.leaf})"


class Within(NamedTuple):
    """A program has trained a part of an epoch."""

    program: Program
    step: int
    share: float
    """The fraction of the epoch that is trained."""


class Epoch(NamedTuple):
    """A program has finished an epoch."""

    program: Program
    epoch: int
    rows: list[Row]
    """The new records, without those of trials that had already diverged."""


class Saved(NamedTuple):
    """The state of a program was saved; if the run was stopped, this is its last event."""

    program: Program
    step: int
    ended: bool


class Noted(NamedTuple):
    """A message about a problem that does not stop the run, such as a damaged checkpoint."""

    message: str


class Finished(NamedTuple):
    """All points are trained and ranked, and the winner is tested."""

    swept: Swept


Event = (
    Opened | Planned | Resumed | Compiling | Compiled | Verifying | Verified | Within | Epoch | Saved | Noted | Finished
)
