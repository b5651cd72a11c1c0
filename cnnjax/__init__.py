"""cnnjax: train families of convolutional networks as one XLA program."""

from importlib import metadata as _metadata

from cnnjax.augmentation import Augmentation as Augmentation
from cnnjax.augmentation import Flip as Flip
from cnnjax.augmentation import Shift as Shift
from cnnjax.config import Range as Range
from cnnjax.config import SweepConfig as SweepConfig
from cnnjax.config import TrainConfig as TrainConfig
from cnnjax.data import Dataset as Dataset
from cnnjax.data import Spec as Spec
from cnnjax.data import Split as Split
from cnnjax.data import load as load
from cnnjax.losses import CrossEntropy as CrossEntropy
from cnnjax.losses import Loss as Loss
from cnnjax.losses import SquaredError as SquaredError
from cnnjax.metrics import Accuracy as Accuracy
from cnnjax.metrics import Metric as Metric
from cnnjax.networks import CNN as CNN
from cnnjax.networks import MLP as MLP
from cnnjax.networks import CNNConfig as CNNConfig
from cnnjax.networks import Dropout as Dropout
from cnnjax.networks import LeNet5 as LeNet5
from cnnjax.networks import LeNet5Config as LeNet5Config
from cnnjax.networks import MLPConfig as MLPConfig
from cnnjax.networks import NetworkConfig as NetworkConfig
from cnnjax.networks import ResNet as ResNet
from cnnjax.networks import ResNetConfig as ResNetConfig
from cnnjax.networks import functional as functional
from cnnjax.operations import avg_pool as avg_pool
from cnnjax.operations import conv_general_dilated as conv_general_dilated
from cnnjax.operations import max_pool as max_pool
from cnnjax.optimizers import SGD as SGD
from cnnjax.optimizers import Adam as Adam
from cnnjax.optimizers import AdamW as AdamW
from cnnjax.optimizers import Optimizer as Optimizer
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
from cnnjax.schedules import Schedule as Schedule
from cnnjax.schedules import Step as Step
from cnnjax.training import make_task as make_task

__version__ = _metadata.version("cnnjax")
