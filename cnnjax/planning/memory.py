"""Splits programs that need more memory than is available."""

from cnnjax.sweeps import Program


def in_chunks(program: Program, needed: int, available: int) -> tuple[Program, ...]:
    """Splits a program into programs with as many lanes as fit in memory.

    Args:
      program: the program.
      needed: the memory that it needs on each device, in bytes.
      available: the memory that it may use on each device, in bytes.

    Raises:
      ValueError: if not even one lane per device fits.
    """
    if needed <= available:
        return (program,)
    trials, devices = len(program.trials), program.lanes.devices
    count = -(-(trials + program.spare) // devices) * devices  # the last lane is repeated
    most = count * available // needed // devices * devices
    if most < devices:
        size, scale = program.config.batch_size, program.lanes.all_devices / 2**20
        raise ValueError(
            f"batch_size: {size}: {devices} trials need {scale * needed * devices / count:.3g} MiB, but only "
            f"{scale * available:.3g} MiB may be used: use a batch size of "
            f"{max(1, size * count * available // (needed * devices) // 2)}, or increase --memory"
        )
    parts = (program.trials[i : i + most] for i in range(0, trials, most))
    return tuple(program._replace(trials=part, spare=0) for part in parts)
