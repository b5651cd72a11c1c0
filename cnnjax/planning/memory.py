"""Programs that need more memory than there is, in chunks."""

from cnnjax.sweeps import Program


def in_chunks(program: Program, needed: int, available: int) -> tuple[Program, ...]:
    """A program that needs more memory than there is, as several with as many lanes as fit.

    Raises:
      ValueError: not even one lane a device does.
    """
    if needed <= available:
        return (program,)
    trials, devices = len(program.trials), program.lanes.devices
    count = -(-(trials + program.spare) // devices) * devices  # the last is repeated
    most = count * available // needed // devices * devices
    if most < devices:
        size, scale = program.config.batch_size, program.lanes.all_devices / 2**20
        raise ValueError(
            f"batch_size: {size}: {devices} trials at once take {scale * needed * devices / count:.3g} MiB and "
            f"{scale * available:.3g} MiB may be used: use a batch of "
            f"{max(1, size * count * available // (needed * devices) // 2)}, or more --memory"
        )
    parts = (program.trials[i : i + most] for i in range(0, trials, most))
    return tuple(program._replace(trials=part, spare=0) for part in parts)
