"""cnnjax: train families of convolutional networks as one XLA program."""

from cnnjax.config import Hparams as Hparams
from cnnjax.config import SweepConfig as SweepConfig
from cnnjax.config import TrainConfig as TrainConfig
from cnnjax.data import load as load
from cnnjax.networks import CNN as CNN
from cnnjax.networks import MLP as MLP
from cnnjax.networks import CNNConfig as CNNConfig
from cnnjax.networks import LeNet5 as LeNet5
from cnnjax.networks import LeNet5Config as LeNet5Config
from cnnjax.networks import MLPConfig as MLPConfig
from cnnjax.networks import ResNet as ResNet
from cnnjax.networks import ResNetConfig as ResNetConfig
from cnnjax.networks import functional as functional
from cnnjax.operations import avg_pool as avg_pool
from cnnjax.operations import conv_general_dilated as conv_general_dilated
from cnnjax.operations import max_pool as max_pool
from cnnjax.runs import load_run as load_run
from cnnjax.runs import sweep as sweep
