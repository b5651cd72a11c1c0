"""Networks as Flax NNX modules, their configurations, and `functional`, which turns a module into pure functions."""

from cnnjax.networks.base import Network as Network
from cnnjax.networks.base import NetworkConfig as NetworkConfig
from cnnjax.networks.base import Variables as Variables
from cnnjax.networks.base import functional as functional
from cnnjax.networks.cnn import CNN as CNN
from cnnjax.networks.cnn import CNNConfig as CNNConfig
from cnnjax.networks.layers import ACTIVATIONS as ACTIVATIONS
from cnnjax.networks.layers import POOLS as POOLS
from cnnjax.networks.layers import Dropout as Dropout
from cnnjax.networks.lenet import LeNet5 as LeNet5
from cnnjax.networks.lenet import LeNet5Config as LeNet5Config
from cnnjax.networks.mlp import MLP as MLP
from cnnjax.networks.mlp import MLPConfig as MLPConfig
from cnnjax.networks.resnet import ResNet as ResNet
from cnnjax.networks.resnet import ResNetConfig as ResNetConfig
from cnnjax.networks.text_cnn import TextCNN as TextCNN
from cnnjax.networks.text_cnn import TextCNNConfig as TextCNNConfig
