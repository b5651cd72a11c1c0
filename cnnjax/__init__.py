"""Train families of convolutional networks as one XLA program."""

import importlib
import sys
import types
from importlib import metadata, util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnjax.augmentation import Affine as Affine
    from cnnjax.augmentation import AlternatingFlip as AlternatingFlip
    from cnnjax.augmentation import Augmentation as Augmentation
    from cnnjax.augmentation import ColorJitter as ColorJitter
    from cnnjax.augmentation import CutMix as CutMix
    from cnnjax.augmentation import Cutout as Cutout
    from cnnjax.augmentation import Flip as Flip
    from cnnjax.augmentation import Jitter as Jitter
    from cnnjax.augmentation import Mixup as Mixup
    from cnnjax.augmentation import Scaling as Scaling
    from cnnjax.augmentation import Shift as Shift
    from cnnjax.augmentation import TokenDropout as TokenDropout
    from cnnjax.augmentation import WindowSlice as WindowSlice
    from cnnjax.config import Range as Range
    from cnnjax.config import SweepConfig as SweepConfig
    from cnnjax.config import TrainConfig as TrainConfig
    from cnnjax.data import Batch as Batch
    from cnnjax.data import Dataset as Dataset
    from cnnjax.data import Loading as Loading
    from cnnjax.data import Spec as Spec
    from cnnjax.data import Split as Split
    from cnnjax.data import load as load
    from cnnjax.look import summarize as summarize
    from cnnjax.losses import CrossEntropy as CrossEntropy
    from cnnjax.losses import Loss as Loss
    from cnnjax.losses import SquaredError as SquaredError
    from cnnjax.metrics import Accuracy as Accuracy
    from cnnjax.metrics import Metric as Metric
    from cnnjax.networks import CNN as CNN
    from cnnjax.networks import MLP as MLP
    from cnnjax.networks import VGG as VGG
    from cnnjax.networks import Airbench as Airbench
    from cnnjax.networks import AirbenchConfig as AirbenchConfig
    from cnnjax.networks import AlexNet as AlexNet
    from cnnjax.networks import AlexNetConfig as AlexNetConfig
    from cnnjax.networks import AllCNN as AllCNN
    from cnnjax.networks import AllCNNConfig as AllCNNConfig
    from cnnjax.networks import CNNConfig as CNNConfig
    from cnnjax.networks import ConvNeXt as ConvNeXt
    from cnnjax.networks import ConvNeXtConfig as ConvNeXtConfig
    from cnnjax.networks import Dropout as Dropout
    from cnnjax.networks import LeNet5 as LeNet5
    from cnnjax.networks import LeNet5Config as LeNet5Config
    from cnnjax.networks import LeNet1998 as LeNet1998
    from cnnjax.networks import LeNet1998Config as LeNet1998Config
    from cnnjax.networks import MLPConfig as MLPConfig
    from cnnjax.networks import MobileNet as MobileNet
    from cnnjax.networks import MobileNetConfig as MobileNetConfig
    from cnnjax.networks import NetworkConfig as NetworkConfig
    from cnnjax.networks import ResNet as ResNet
    from cnnjax.networks import ResNetConfig as ResNetConfig
    from cnnjax.networks import TextCNN as TextCNN
    from cnnjax.networks import TextCNNConfig as TextCNNConfig
    from cnnjax.networks import VGGConfig as VGGConfig
    from cnnjax.networks import WideResNet as WideResNet
    from cnnjax.networks import WideResNetConfig as WideResNetConfig
    from cnnjax.networks import functional as functional
    from cnnjax.operations import avg_pool as avg_pool
    from cnnjax.operations import conv_general_dilated as conv_general_dilated
    from cnnjax.operations import max_pool as max_pool
    from cnnjax.optimizers import SGD as SGD
    from cnnjax.optimizers import Adam as Adam
    from cnnjax.optimizers import AdamW as AdamW
    from cnnjax.optimizers import Lion as Lion
    from cnnjax.optimizers import Muon as Muon
    from cnnjax.optimizers import Optimizer as Optimizer
    from cnnjax.optimizers import RMSprop as RMSprop
    from cnnjax.options import config as config
    from cnnjax.options import number as number
    from cnnjax.options import part as part
    from cnnjax.options import static as static
    from cnnjax.presets import Preset as Preset
    from cnnjax.presets import load_preset as load_preset
    from cnnjax.runs import InMemory as InMemory
    from cnnjax.runs import RunFolder as RunFolder
    from cnnjax.runs import fit as fit
    from cnnjax.runs import load_run as load_run
    from cnnjax.runs import sweep as sweep
    from cnnjax.schedules import Constant as Constant
    from cnnjax.schedules import Cosine as Cosine
    from cnnjax.schedules import Linear as Linear
    from cnnjax.schedules import OneCycle as OneCycle
    from cnnjax.schedules import Schedule as Schedule
    from cnnjax.schedules import Step as Step
    from cnnjax.training import make_task as make_task

_HOMES = {
    "cnnjax.augmentation": "Affine AlternatingFlip Augmentation ColorJitter Cutout CutMix Flip Jitter Mixup Scaling "
    "Shift TokenDropout WindowSlice",
    "cnnjax.config": "Range SweepConfig TrainConfig",
    "cnnjax.data": "Batch Dataset Loading Spec Split load",
    "cnnjax.look": "summarize",
    "cnnjax.losses": "CrossEntropy Loss SquaredError",
    "cnnjax.metrics": "Accuracy Metric",
    "cnnjax.networks": "CNN LeNet5 MLP ResNet Airbench AlexNet AllCNN ConvNeXt LeNet1998 MobileNet TextCNN "
    "VGG WideResNet "
    "CNNConfig LeNet5Config MLPConfig NetworkConfig ResNetConfig AirbenchConfig AlexNetConfig AllCNNConfig "
    "ConvNeXtConfig LeNet1998Config MobileNetConfig TextCNNConfig VGGConfig WideResNetConfig Dropout functional",
    "cnnjax.operations": "avg_pool conv_general_dilated max_pool",
    "cnnjax.optimizers": "SGD Adam AdamW Lion Muon Optimizer RMSprop",
    "cnnjax.options": "config number part static",
    "cnnjax.presets": "Preset load_preset",
    "cnnjax.runs": "InMemory RunFolder fit load_run sweep",
    "cnnjax.schedules": "Constant Cosine Linear OneCycle Schedule Step",
    "cnnjax.training": "make_task",
}
__all__ = sorted(name for names in _HOMES.values() for name in names.split())
__version__ = metadata.version("cnnjax")


class _Package(types.ModuleType):
    """Keeps `cnnjax.config` the decorator when the module of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "config" and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Imports names on first use, so that `cnnjax --help` does not import JAX and Flax."""
    home = next((home for home, names in _HOMES.items() if name in names.split()), None)
    if home:
        globals()[name] = found = getattr(importlib.import_module(home), name)
        return found
    if not name.startswith("_") and util.find_spec(f"cnnjax.{name}"):
        return importlib.import_module(f"cnnjax.{name}")
    raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
