"""Simulates sweeps with known true means, and counts how often the comparison with the best is correct.

python experiments/ranking.py [--tables 500]

A sweep has 12 points, one of which is unstable in the third model. An accuracy is the sum of the mean of the point, the
effect of the seed, which all points share, and an error. In the last two models all points are equally good, which is
the hardest case; the first one counts as the true best. For each model and number of seeds, the table has how often the
true best is judged worse, and how many of the other points are distinguished from the best: by paired t-tests with
Holm's correction, and by `cnnjax.sweeps.compare`. In the rows with `3 + 5` seeds, the best point of three seeds and the
undecided points have five more.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.stats import ttest_rel  # type: ignore[import-untyped]

from cnnjax import Accuracy, CNNConfig, TrainConfig
from cnnjax.sweeps import Compared, Result, Trial, compare, rank

MEANS = 0.97 - np.array([0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.3])
ERROR, SEED = 0.005, 0.003  # standard deviations
CLASSES, EXAMPLES = 10, 1000  # of the validation split; they determine which seeds are no better than guessing
EQUAL, UNEQUAL = np.full(12, ERROR), ERROR * np.geomspace(0.5, 2, 12)[np.random.default_rng(1).permutation(12)]
MODELS = {
    "equal spread": (MEANS, EQUAL),
    "unequal spread": (MEANS, UNEQUAL),
    "one unstable": (MEANS, EQUAL),
    "equal means": (np.full(12, MEANS[0]), EQUAL),
    "equal means, unequal spread": (np.full(12, MEANS[0]), UNEQUAL),
}
BASE = TrainConfig(CNNConfig())


def table(model: str, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Returns random accuracies, [points, seeds]."""
    means, errors = MODELS[model]
    drawn = means[:, None] + rng.normal(0, SEED, seeds) + rng.normal(size=(12, seeds)) * errors[:, None]
    if model == "one unstable":  # some of its seeds, at least one, stay at chance
        drawn[10, rng.permutation(seeds)[: rng.integers(1, seeds)]] = 0.1
    return np.clip(drawn, 0, 1)


def by_pairs(drawn: np.ndarray) -> set[int]:
    """Returns the points that are worse than the best by paired t-tests at 5 % with Holm's correction."""
    best, *others = np.argsort(-drawn.mean(1))
    p = {int(other): float(ttest_rel(drawn[best], drawn[other]).pvalue) for other in others}
    worse: set[int] = set()
    for left, other in zip(range(len(p), 0, -1), sorted(p, key=p.__getitem__), strict=True):
        if p[other] * left >= 0.05:
            break
        worse.add(other)
    return worse


def compared(drawn: np.ndarray) -> list[Compared]:
    """Returns the result of `compare` for accuracies [points, seeds]; NaN marks missing seeds."""
    results = []
    for (p, s), value in np.ndenumerate(drawn):
        trial = Trial(100 * p + s, p, (("point", p),), replace(BASE, seed=s))
        above = Accuracy().above_chance(float(value), CLASSES, EXAMPLES)
        results.append(Result(trial, "complete", 1, 1, 0.0, 0.0, float(value), above))
    return compare(rank([result for result in results if not np.isnan(result.valid_metric)]))


def number(each: Compared) -> int:
    """Returns the number of the compared point."""
    return each.point.results[0].trial.point


def by_comparison(drawn: np.ndarray) -> set[int]:
    """Returns the points that are worse or unstable by `compare`."""
    return {number(each) for each in compared(drawn) if each.verdict in ("worse", "unstable")}


def in_two_steps(drawn: np.ndarray, first: int = 3) -> set[int]:
    """Returns the points that are worse if only the best and the undecided of the first seeds have the other seeds."""
    decided = [number(each) for each in compared(drawn[:, :first]) if each.verdict not in ("best", "undecided")]
    left = drawn.copy()
    left[decided, first:] = np.nan
    return by_comparison(left)


def rates(rule: Callable[[np.ndarray], set[int]], drawn: list[np.ndarray]) -> tuple[str, str]:
    """Returns how often a rule judges the true best as worse, and how many others on average."""
    worse = [rule(each) for each in drawn]
    return f"{np.mean([0 in each for each in worse]):.1%}", f"{np.mean([len(each - {0}) for each in worse]):.1f}"


def main(tables: int) -> None:
    """Prints the table of all models."""
    print("| model | seeds | best called worse, t-tests | compare | told apart of 11, t-tests | compare |")
    print("|---|---|---|---|---|---|")
    for place, model in enumerate(MODELS):
        for seeds in (3, 5, 10):
            rng = np.random.default_rng((seeds, place))
            drawn = [table(model, seeds, rng) for _ in range(tables)]
            (out, apart), (out_now, apart_now) = rates(by_pairs, drawn), rates(by_comparison, drawn)
            print(f"| {model} | {seeds} | {out} | {out_now} | {apart} | {apart_now} |", flush=True)
        rng = np.random.default_rng((8, place))
        out, apart = rates(in_two_steps, [table(model, 8, rng) for _ in range(tables)])
        print(f"| {model} | 3 + 5 | | {out} | | {apart} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=500)
    main(parser.parse_args().tables)
