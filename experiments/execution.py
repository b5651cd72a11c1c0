"""How a run is carried out: the options that every script takes."""

import dataclasses
import math
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is carried out; nothing here changes a result but by rounding."""

    name: str | None = None
    """name of the run folder; by default the preset and the time"""
    runs_dir: Path = Path("runs")
    """where run folders lie"""
    data_dir: Path | None = None
    """where TensorFlow Datasets keeps prepared data; by default TFDS_DATA_DIR or ~/tensorflow_datasets"""
    device: Literal["cpu", "gpu", "tpu"] | None = None
    """by default the best there is"""
    lanes: str = "auto"
    """how trials share a program: auto (measured where it pays), or lanes side by side (0: all) and devices, as 1:2,
    and devices that share a batch, as 1:1:2"""
    pack: Literal["shapes", "buckets", "one", "auto"] = "auto"
    """which widths share a program, narrow networks embedded in wide ones by zeros: none (shapes), those with the same
    powers of two above them (buckets), all (one), or what is predicted to take the least time"""
    plan_from: Path | None = None
    """run the trials as this plan.json of an earlier run says"""
    resume: bool = False
    """continue the run --name where it stopped, or start it if there is none"""
    allow_changes: bool = False
    """continue also where configuration, versions, source, preset or data are not those it started with"""
    save_seconds: float = 30.0
    """seconds of training between two checkpoints of a program; 0 for one after each epoch"""
    keep_latest: int = 2
    """how many of the last checkpoints of a program are kept"""
    keep_best: int = 1
    """and how many of those with the best validation metric"""
    deterministic: bool = False
    """on a GPU, only operations whose results never vary, at some cost in speed"""
    memory: float | None = None
    """GiB that training may take in all; by default most of what is free"""
    compilation_cache: bool = True
    """keep compiled programs in the user's cache directory"""
    preset: Path | None = None
    """where the first word is a run folder: the file that defines the parts of your own that it was started with"""
    extend: Path | None = None
    """take over what this finished run of the same kind has trained already, and train what is missing"""
    tensorboard: bool = False
    """of a sweep: a TensorBoard run for each trial, with its HParams page"""
    plan: bool = False
    """only print what would be trained: trials, programs, lanes, memory, and the predicted time"""
    debug: bool = False
    """full tracebacks"""
    quiet: bool = False
    """print the result only"""

    def check(self) -> None:
        """ValueError where a value is out of range."""
        if self.memory is not None and not 0 < self.memory * 2**30 < math.inf:
            raise ValueError(f"memory: {self.memory}: must be above 0 and finite")
        if not 0 <= self.save_seconds < math.inf:
            raise ValueError(f"save_seconds: {self.save_seconds}: must be at least 0 and finite")
        if self.keep_latest < 1:
            raise ValueError(f"keep_latest: {self.keep_latest}: must be at least 1")
        if self.keep_best < 0:
            raise ValueError(f"keep_best: {self.keep_best}: must be at least 0")
        if self.resume and self.name is None:
            raise ValueError("resume: give --name, the run to continue")
