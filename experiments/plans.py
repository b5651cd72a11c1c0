"""How a sweep is going to be carried out: its programs, and what they will take."""

from collections.abc import Sequence
from importlib import util
from pathlib import Path

from errors import usage
from execution import Options
from inherit import extendable
from presets import Preset

from cnnjax.config import SAMPLERS, Range, SweepConfig, TrainConfig, alternatives
from cnnjax.data import Dataset
from cnnjax.options import has, update
from cnnjax.planning import Packing, estimate, in_cache, pack_of, parse_lanes, read_plan, works
from cnnjax.sweeps import Program, Stage, columns, programs_of, search, task_of, work
from cnnjax.training import make_task, validate


def swept(config: TrainConfig | SweepConfig) -> SweepConfig:
    """A single run as a sweep of one trial."""
    return config if isinstance(config, SweepConfig) else SweepConfig(config, axes=(), seeds=1)


def packing(stage: Stage, dataset: Dataset, options: Options) -> Packing:
    """The packing that is asked for, or the one that is predicted to take the least time."""
    if options.pack != "auto":
        return Packing(options.pack, {})
    return pack_of(stage.trials, dataset, None if options.lanes == "auto" else parse_lanes(options.lanes))


def check(sweep: SweepConfig, dataset: Dataset, options: Options, preset: Preset) -> None:
    """ValueError where a sweep cannot be carried out, as far as its first stage tells."""
    begun = options.runs_dir.expanduser() / (options.name or "") / "plan.json"
    source = begun if options.resume and begun.is_file() else options.plan_from
    if source and source is options.plan_from and options.lanes != "auto":
        raise ValueError(f"lanes: {options.lanes}: the plan {source} says how: give one of both")
    if options.plan_from and options.extend:
        raise ValueError(f"extend: {options.extend}: goes without --plan-from, which is for all trials")
    if options.extend:
        extendable(options.extend, sweep, preset.classes)
    if options.tensorboard and util.find_spec("tensorboardX") is None:
        raise ValueError("tensorboard: needs tensorboardX: pip install -e '.[tensorboard]'")
    programs = planned(sweep, next(search(sweep)), dataset, options, source)
    if sweep.search in SAMPLERS:  # whose first stage need not have each value of a list
        _check_values(sweep, dataset)
    for program in programs:
        validate(task_of(program, dataset.spec), dataset)
        if source and program.micro_batch and not works(program, dataset.spec):
            raise ValueError(
                f"plan: {source}: micro_batch: {program.micro_batch}: must divide a device's part of "
                f"batch_size {program.config.batch_size}, and the network can have neither batch_norm nor dropout"
            )


def _check_values(sweep: SweepConfig, dataset: Dataset) -> None:
    for names, rows in columns(sweep):
        paths = [sweep.paths[name] for name in names]
        run = next(run for run in alternatives(sweep.base, sweep.axes) if all(has(run, path) for path in paths))
        for row in () if isinstance(rows, Range) else rows:
            trial = run
            for path, value in zip(paths, row, strict=True):
                trial = update(trial, path, value)
            validate(make_task(trial, dataset.spec), dataset)


def planned(
    sweep: SweepConfig,
    stage: Stage,
    dataset: Dataset,
    options: Options,
    source: Path | None,
    carried: Sequence[Program] = (),
    pack: str | None = None,
) -> tuple[Program, ...]:
    """The programs of a stage: as `source` says, those in which its trials trained before, or new ones."""
    if source and (found := read_plan(source, stage, dataset.spec, sweep.search == "all")):
        return found
    lanes = None if options.lanes == "auto" else parse_lanes(options.lanes)
    pack = pack or ("shapes" if options.pack == "auto" else options.pack)
    programs = programs_of(stage, carried, lanes, pack, spec=dataset.spec, strict=options.pack != "auto")
    return programs if lanes or stage.after else tuple(in_cache(program, dataset.spec) for program in programs)


def show_plan(sweep: SweepConfig, options: Options, preset: Preset) -> None:
    """Prints what a sweep would train, and what it would take, without training."""
    with usage(options.debug):
        if options.extend or options.resume:
            raise ValueError("plan: goes without --extend and --resume: it is of a whole sweep")
    dataset = preset.dataset(sweep.base.data, options.data_dir)
    with usage(options.debug):
        check(sweep, dataset, options, preset)
        stage = next(search(sweep))
        pack = Packing("shapes", {}) if options.plan_from else packing(stage, dataset, options)
        programs = planned(sweep, stage, dataset, options, options.plan_from, pack=pack.pack)
    epochs, here = work(sweep), sum(len(p.trials) * (p.end - p.after) for p in programs)
    points = len({trial.point for trial in stage.trials})
    print(f"{len(stage.trials)} trials ({points} points x {sweep.seeds} seeds), {epochs:,} epochs of training in all")
    for name, why in reasons(sweep, pack.pack).items():
        print(f"  {name}: {why}")
    if pack.seconds:
        print(f"pack {pack.pack}: predicted seconds " + ", ".join(f"{k} {v:.0f}" for k, v in pack.seconds.items()))
    rows = [["program", "trials", "lanes", "micro-batch", "network", "memory", "compile", "train"]]
    found = estimate(programs, dataset)
    for number, (program, taken) in enumerate(zip(programs, found, strict=True)):
        how = [str(number), str(len(program.trials)), str(program.lanes), str(program.micro_batch or "-")]
        times = [f"{taken.memory / 2**20:.0f} MiB", f"{taken.compile_s:.1f} s", f"{taken.train_s:.1f} s"]
        rows.append([*how, str(program.config.network), *times])
    print(aligned(rows))
    seconds = sum(taken.train_s for taken in found) * epochs / here
    rest = "" if epochs == here else f", of which {here:,} epochs are the first stage, shown above"
    compiling = sum(taken.compile_s for taken in found)
    print(f"training {seconds:.1f} s{rest}; compilation {compiling:.1f} s, programs side by side while others train")


def reasons(sweep: SweepConfig, pack: str) -> dict[str, str]:
    """Why each axis is lanes or programs."""
    networks = [run.network for run in alternatives(sweep.base, sweep.axes)]
    widths = {name for network in networks for name in network.widths} if pack != "shapes" else set()
    words = {"seeds": "lanes: each point under the same seeds"}
    for name, values in sweep.axes:
        option = sweep.option(name)
        if option.kind == "number":
            off = not isinstance(values, Range) and len({value is None for value in values}) > 1
            words[name] = "lanes: a number" + (", none a program of its own" if off else "")
        elif option.path[0] == "network" and option.path[-1] in widths:
            words[name] = "lanes: widths, embedded in the widest network of a program by zeros"
        else:
            words[name] = "programs: it changes a shape or a function"
    return words


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
