"""The options that `train` and `sweep` take besides what is trained."""

import dataclasses
from pathlib import Path
from typing import Literal

from cnnjax.planning import Execution


@dataclasses.dataclass(frozen=True)
class Options(Execution):
    """How a run is carried out; nothing here changes a result but by rounding."""

    name: str | None = None
    """name of the run folder; by default the preset and the time"""
    runs_dir: Path = Path("runs")
    """where run folders lie"""
    data_dir: Path | None = None
    """where TensorFlow Datasets keeps prepared data; by default TFDS_DATA_DIR or ~/tensorflow_datasets"""
    device: Literal["cpu", "gpu", "tpu"] | None = None
    """kind of device; by default the best there is"""
    resume: bool = False
    """continue the run --name where it stopped, or start it if there is none"""
    allow_changes: bool = False
    """continue also where configuration, versions, source, preset or data are not those it started with"""
    deterministic: bool = False
    """on a GPU, only operations whose results never vary, at some cost in speed"""
    compilation_cache: bool = True
    """keep compiled programs in the user's cache directory"""
    preset: Path | None = None
    """where the first word is a run folder: the file that defines the parts of your own that it was started with"""
    extend: tuple[Path, ...] = ()
    """take over what these finished runs of the same kind have trained already, and train what is missing"""
    tensorboard: bool = False
    """write a TensorBoard run for each trial, with the HParams page"""
    plan: bool = False
    """only print what would be trained: trials, programs, lanes, memory, and the predicted time"""
    debug: bool = False
    """full tracebacks"""
    quiet: bool = False
    """print the result only"""

    def check(self) -> None:
        """ValueError where a value is out of range."""
        super().check()
        if self.resume and self.name is None:
            raise ValueError("resume: give --name, the run to continue")
