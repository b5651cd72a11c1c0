"""The execution options of `train` and `sweep`."""

import dataclasses
from pathlib import Path
from typing import Literal

from cnnjax.planning import Execution


@dataclasses.dataclass(frozen=True)
class Options(Execution):
    """Execution options; they change results only by rounding."""

    name: str | None = None
    """name of the run folder; by default the preset and the time"""
    runs_dir: Path = Path("runs")
    """directory of run folders"""
    data_dir: Path | None = None
    """directory of prepared TensorFlow Datasets data; by default TFDS_DATA_DIR or ~/tensorflow_datasets"""
    device: Literal["cpu", "gpu", "tpu"] | None = None
    """kind of device; by default the best one available"""
    resume: bool = False
    """continue the run given by --name, or start it if it does not exist"""
    allow_changes: bool = False
    """continue even if configuration, versions, source, preset or data have changed"""
    deterministic: bool = False
    """on a GPU, use only deterministic operations, which are slower"""
    compilation_cache: bool = True
    """keep compiled programs in the user's cache directory"""
    preset: Path | None = None
    """file that defines the user-defined parts of a run folder given as PRESET"""
    extend: tuple[Path, ...] = ()
    """finished runs whose trials are reused, so that only missing trials are trained"""
    tensorboard: bool = False
    """write a TensorBoard run for each trial, with hyperparameters"""
    plan: bool = False
    """print trials, programs, lanes, memory and predicted time, without training"""
    debug: bool = False
    """show full tracebacks"""
    quiet: bool = False
    """print only the result"""

    def check(self) -> None:
        """Raises ValueError if a value is out of range."""
        super().check()
        if self.resume and self.name is None:
            raise ValueError("resume: give the --name of the run to continue")
