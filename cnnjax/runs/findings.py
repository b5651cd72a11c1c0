"""What a sweep has shown, in sentences, and the commands to run next."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cnnjax.config import SweepConfig
from cnnjax.options import text
from cnnjax.runs.swept import Swept
from cnnjax.sweeps import Ranked, edges, shown, summarize, variance_shares


class Commands(Protocol):
    """The commands that follow a run, in the form in which it was started."""

    def continued(self, folder: Path, sweep: bool) -> str:
        """Returns the command that continues the run in `folder`."""

    def further(self, folder: Path, epochs: int) -> str:
        """Returns the command that trains the single run in `folder` for more epochs in all."""

    def seeds(self, folder: Path, count: int) -> str:
        """Returns the command that trains more seeds for the best point and the undecided points of a sweep."""

    def grid(self, values: Mapping[str, Any], folder: Path, config: SweepConfig, extend: bool) -> str:
        """Returns the command of a sweep with other values; with `extend`, it trains only the missing trials."""


class Calls:
    """The commands that follow a run as Python calls, where `config` is the configuration of the run."""

    def continued(self, folder: Path, sweep: bool) -> str:
        """Returns the call that continues the run in `folder`."""
        return f"cnnjax.{'sweep' if sweep else 'fit'}(config, store={str(folder)!r}, resume=True)"

    def further(self, folder: Path, epochs: int) -> str:
        """Returns the call that trains the single run in `folder` for more epochs in all."""
        more = f"dataclasses.replace(config, epochs={epochs})"
        return f"cnnjax.fit({more}, store={str(folder)!r}, resume=True, allow_changes=True)"

    def seeds(self, folder: Path, count: int) -> str:
        """Returns the call that trains more seeds for the best point and the undecided points of a sweep."""
        return f"cnnjax.sweep(config, extend={str(folder)!r}, add_seeds={count})"

    def grid(self, values: Mapping[str, Any], folder: Path, config: SweepConfig, extend: bool) -> str:
        """Returns the call of a sweep with other values; with `extend`, it trains only the missing trials."""
        axes = tuple((name, values.get(name, several)) for name, several in config.axes)
        before = f", extend={str(folder)!r}" if extend else ""
        return f"cnnjax.sweep(dataclasses.replace(config, axes={axes!r}){before})"


class Finding(NamedTuple):
    """A sentence about a sweep."""

    text: str
    command: str = ""
    """The command that the sentence suggests."""
    warning: bool = False

    def __str__(self) -> str:
        return ("warning: " if self.warning else "") + self.text + (f": {self.command}" if self.command else "")


def findings(swept: Swept, folder: Path, commands: Commands) -> Iterator[Finding]:
    """Yields the findings of a sweep: the test, points as good as the best, shares of the variance, what to run next.

    Args:
      swept: the results of the sweep.
      folder: its run folder.
      commands: the commands that follow it.
    """
    config, metric, compared = swept.config, swept.metric, swept.compared
    if swept.tests:
        tested, averaged = (
            summarize([score for score, _ in tests.values()]) for tests in (swept.tests, swept.ema_tests)
        )
        over = f" over {tested.n} {swept.winner.repeated}" if tested.n > 1 else ""
        words = metric.kind().replace("-", " ")
        too = f"; with averaged parameters, {shown(averaged, metric)}" if swept.ema_tests else ""
        yield Finding(f"The best point has a test {words} of {shown(tested, metric)}{over}{too}.")
    if config.more_seeds:
        yield Finding("Points have different seeds: ranks and gaps are adjusted for seed effects.")
    if level := [each.point for each in compared if each.verdict in ("equal", "undecided")]:
        yield Finding(f"Not significantly different from the best: {_some(level)}.")
    undecided = sum(each.verdict == "undecided" for each in compared)
    if undecided and config.search == "all" and not config.shard:
        more = commands.seeds(folder, max(2, config.seeds))
        yield Finding(f"{undecided} undecided; to train more seeds for these and the best", more)
    if unstable := [each.point for each in compared if each.verdict == "unstable"]:
        why = "a seed is no better than guessing, or the spread over seeds is unusually large"
        yield Finding(f"Unstable ({why}), ranked last and not compared: {_some(unstable)}.")
    if parts := variance_shares(swept.points):
        shares = ", ".join(f"{name} {share:.0%}" for name, share in parts.items())
        yield Finding(f"Shares of the variance: {shares}.")
    yield from _warnings(swept, folder, commands)


def _warnings(swept: Swept, folder: Path, commands: Commands) -> Iterator[Finding]:
    config, ends = swept.config, edges(swept.config, swept.winner)
    if not swept.winner.complete:
        yield Finding("every point has a diverged seed: try lower learning rates", warning=True)
    if config.shard:
        merge = "`cnnjax merge` joins all shards, ranks their points and tests the best."
        yield Finding(f"Shard {config.shard}: {merge}")
    elif ends:
        which = ", ".join(f"{edge.name} {text(edge.value)} is the {edge.side} value" for edge in ends)
        known = config.search == "all" and not config.points  # then the next sweep has some of the same points
        next_one = commands.grid({edge.name: edge.proposed for edge in ends}, folder, config, known)
        yield Finding(f"the best point is on the edge of the grid ({which}); a grid around it", next_one, True)


def _some(points: Sequence[Ranked], most: int = 5) -> str:
    """Lists the names of the first few points."""
    names = "; ".join(point.name for point in points[:most])
    return names + (f"; and {len(points) - most} more" if len(points) > most else "")
