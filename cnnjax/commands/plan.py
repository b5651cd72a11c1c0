"""Prints the plan of a sweep: its programs, memory and predicted time."""

from cnnjax.commands.errors import usage
from cnnjax.commands.options import Options
from cnnjax.commands.tables import aligned
from cnnjax.config import Range, SweepConfig, alternatives
from cnnjax.data import folded
from cnnjax.planning import Packing, choose_packing, estimate, planned, read_plan
from cnnjax.presets import Preset
from cnnjax.runs import check
from cnnjax.sweeps import search, work


def show_plan(sweep: SweepConfig, options: Options, preset: Preset) -> None:
    """Prints the programs of a sweep, with their predicted memory and time, without training."""
    with usage(options.debug):
        if options.extend or options.resume:
            raise ValueError("plan: True: cannot be combined with --extend or --resume")
    dataset = folded(preset.dataset(sweep.base.data, options.data_dir, sweep.base.loading), sweep.folds)
    with usage(options.debug):
        check(sweep, dataset, options)
        stage = next(search(sweep))
        source = read_plan(options.plan_from) if options.plan_from else None
        pack = Packing("shapes", {}) if source else choose_packing(stage, dataset, options)
        programs = planned(sweep, stage, dataset, options, source, pack=pack.pack)
    epochs, here = work(sweep), sum(len(p.trials) * (p.end - p.after) for p in programs)
    points = len({trial.point for trial in stage.trials})
    repeated = f"{sweep.folds} folds x {sweep.seeds} seeds" if sweep.folds else f"{sweep.seeds} seeds"
    print(f"{len(stage.trials)} trials ({points} points x {repeated}), {epochs:,} epochs of training in all")
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
    rest = "" if epochs == here else f", of which {here:,} epochs are in the first stage, shown above"
    compiling = sum(taken.compile_s for taken in found)
    print(f"training {seconds:.1f} s{rest}; compilation {compiling:.1f} s, in parallel with training")


def reasons(sweep: SweepConfig, pack: str) -> dict[str, str]:
    """Returns, for each axis, whether its values are lanes or programs, and why."""
    networks = [run.network for run in alternatives(sweep.base, sweep.axes)]
    widths = {name for network in networks for name in network.widths} if pack != "shapes" else set()
    words = {"seeds": "lanes: the same seeds for every point"}
    if sweep.folds:
        words["folds"] = "programs, which share what is compiled for equal shapes: each has its own data"
    for name, values in sweep.axes:
        option = sweep.option(name)
        if option.kind == "number":
            off = not isinstance(values, Range) and len({value is None for value in values}) > 1
            words[name] = "lanes: a number" + (", with a separate program for none" if off else "")
        elif option.path == ("patience",):
            words[name] = "lanes: each stops by itself"
        elif option.path[0] == "network" and option.path[-1] in widths:
            words[name] = "lanes: widths, padded with zeros to the widest network of a program"
        else:
            words[name] = "programs: it changes a shape or a function"
    return words
