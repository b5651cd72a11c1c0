"""How often a comparison with the best is right: simulated sweeps whose true means are known.

python experiments/ranking.py [--tables 500]

12 points, of which one is unstable in the third model; accuracies are a point's mean, an effect of the seed that all
points share, and an error. Prints for each model and number of seeds how often the true best is called worse, and how
many of the worse points are told apart: by paired t-tests with Holm's correction, and by `cnnjax.sweeps.compare`.
"""

import argparse
from dataclasses import replace

import numpy as np
from scipy.stats import ttest_rel  # type: ignore[import-untyped]

from cnnjax import CNNConfig, TrainConfig
from cnnjax.sweeps import Result, Trial, compare, rank

MEANS = 0.97 - np.array([0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.3])
ERROR, SEED = 0.005, 0.003  # standard deviations
MODELS = {
    "equal spread": np.full(12, ERROR),
    "unequal spread": ERROR * np.geomspace(0.5, 2, 12)[np.random.default_rng(1).permutation(12)],
    "one unstable": np.full(12, ERROR),
}
BASE = TrainConfig(CNNConfig())


def table(model: str, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Accuracies [points, seeds]."""
    drawn = MEANS[:, None] + rng.normal(0, SEED, seeds) + rng.normal(size=(12, seeds)) * MODELS[model][:, None]
    if model == "one unstable":  # some of its seeds, at least one, stay at chance
        drawn[10, rng.permutation(seeds)[: rng.integers(1, seeds)]] = 0.1
    return np.clip(drawn, 0, 1)


def by_pairs(drawn: np.ndarray) -> set[int]:
    """The points that paired t-tests against the best, corrected by Holm's method, call worse at 5 %."""
    best, *others = np.argsort(-drawn.mean(1))
    p = {int(other): float(ttest_rel(drawn[best], drawn[other]).pvalue) for other in others}
    worse: set[int] = set()
    for left, other in zip(range(len(p), 0, -1), sorted(p, key=p.__getitem__), strict=True):
        if p[other] * left >= 0.05:
            break
        worse.add(other)
    return worse


def by_comparison(drawn: np.ndarray) -> set[int]:
    """Those that `compare` calls worse; unstable points are told apart as well."""
    results = [
        Result(Trial(100 * p + s, p, (("point", p),), replace(BASE, seed=s)), "complete", 1, 1, 0.0, 0.0, float(value))
        for p, row in enumerate(drawn)
        for s, value in enumerate(row)
    ]
    found = compare(rank(results))
    return {each.point.results[0].trial.point for each in found if each.verdict in ("worse", "unstable")}


def main(tables: int) -> None:
    """Prints the table."""
    print("| model | seeds | best called worse, t-tests | compare | told apart of 11, t-tests | compare |")
    print("|---|---|---|---|---|---|")
    for model in MODELS:
        for seeds in (3, 5, 10):
            rng = np.random.default_rng((seeds, list(MODELS).index(model)))
            drawn = [table(model, seeds, rng) for _ in range(tables)]
            cells = []
            for rule in (by_pairs, by_comparison):
                worse = [rule(each) for each in drawn]
                cells.append((np.mean([0 in each for each in worse]), np.mean([len(each - {0}) for each in worse])))
            (out, apart), (out_now, apart_now) = cells
            print(f"| {model} | {seeds} | {out:.1%} | {out_now:.1%} | {apart:.1f} | {apart_now:.1f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=500)
    main(parser.parse_args().tables)
