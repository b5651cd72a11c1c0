"""What happens while a run is carried out, as values: `run` yields them, a screen shows them."""

from typing import NamedTuple

from cnnjax.runs.records import Row
from cnnjax.runs.store import Store
from cnnjax.runs.swept import Swept
from cnnjax.sweeps import Program, Stage
from cnnjax.training import Run


class Opened(NamedTuple):
    """The store is this run's."""

    store: Store
    complete: bool
    """Whether all was done before, its summary included."""


class Planned(NamedTuple):
    """The programs of a stage that are still to be trained are known."""

    stage: Stage
    programs: tuple[Program, ...]
    why: str = ""
    """Why the plan changed, if it did."""


class Resumed(NamedTuple):
    """Lines of an earlier process were taken over, and training goes on after them."""

    rows: list[Row]


class Compiling(NamedTuple):
    """Nothing trains before a program is compiled."""

    place: int
    """Of the program among those of its stage, counted from 1."""
    programs: int
    """Programs of the stage, those that are finished included."""


class Compiled(NamedTuple):
    """A program is ready, and is trained next."""

    program: Program
    run: Run


class Within(NamedTuple):
    """A program has trained steps that end within an epoch."""

    program: Program
    step: int
    share: float
    """Of the epoch that is trained."""


class Epoch(NamedTuple):
    """A program has trained an epoch."""

    program: Program
    epoch: int
    rows: list[Row]
    """Its new lines: none of trials that had diverged before."""


class Saved(NamedTuple):
    """A program's state was saved; where it was not at its end, a run that was stopped ends after this."""

    program: Program
    step: int
    ended: bool


class Noted(NamedTuple):
    """Something was found that the run could do without, as a damaged checkpoint."""

    message: str


class Finished(NamedTuple):
    """All is trained, ranked and tested."""

    swept: Swept


Event = Opened | Planned | Resumed | Compiling | Compiled | Within | Epoch | Saved | Noted | Finished
