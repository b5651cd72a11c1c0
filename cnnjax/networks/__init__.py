"""Networks as Flax NNX modules, their configurations, and `functional`, which turns a module into pure functions."""

from cnnjax.networks.cnn import CNN as CNN
from cnnjax.networks.cnn import CNNConfig as CNNConfig

# The configuration that is defined first is the example in messages.
# isort: split
from cnnjax.networks.airbench import Airbench as Airbench
from cnnjax.networks.airbench import AirbenchConfig as AirbenchConfig
from cnnjax.networks.alexnet import AlexNet as AlexNet
from cnnjax.networks.alexnet import AlexNetConfig as AlexNetConfig
from cnnjax.networks.all_cnn import AllCNN as AllCNN
from cnnjax.networks.all_cnn import AllCNNConfig as AllCNNConfig
from cnnjax.networks.base import Network as Network
from cnnjax.networks.base import NetworkConfig as NetworkConfig
from cnnjax.networks.base import Variables as Variables
from cnnjax.networks.base import functional as functional
from cnnjax.networks.convnext import ConvNeXt as ConvNeXt
from cnnjax.networks.convnext import ConvNeXtConfig as ConvNeXtConfig
from cnnjax.networks.layers import ACTIVATIONS as ACTIVATIONS
from cnnjax.networks.layers import POOLS as POOLS
from cnnjax.networks.layers import Dropout as Dropout
from cnnjax.networks.lenet import LeNet5 as LeNet5
from cnnjax.networks.lenet import LeNet5Config as LeNet5Config
from cnnjax.networks.lenet1998 import LeNet1998 as LeNet1998
from cnnjax.networks.lenet1998 import LeNet1998Config as LeNet1998Config
from cnnjax.networks.lenet1998 import TableConvolution as TableConvolution
from cnnjax.networks.mlp import MLP as MLP
from cnnjax.networks.mlp import MLPConfig as MLPConfig
from cnnjax.networks.mobilenet import MobileNet as MobileNet
from cnnjax.networks.mobilenet import MobileNetConfig as MobileNetConfig
from cnnjax.networks.normalization import DropPath as DropPath
from cnnjax.networks.normalization import LocalResponseNorm as LocalResponseNorm
from cnnjax.networks.normalization import SqueezeExcitation as SqueezeExcitation
from cnnjax.networks.resnet import ResNet as ResNet
from cnnjax.networks.resnet import ResNetConfig as ResNetConfig
from cnnjax.networks.text_cnn import TextCNN as TextCNN
from cnnjax.networks.text_cnn import TextCNNConfig as TextCNNConfig
from cnnjax.networks.vgg import VGG as VGG
from cnnjax.networks.vgg import VGGConfig as VGGConfig
from cnnjax.networks.wide_resnet import WideResNet as WideResNet
from cnnjax.networks.wide_resnet import WideResNetConfig as WideResNetConfig
