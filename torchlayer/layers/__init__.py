"""Layers: ``Layer(net, ...)`` is a network one layer longer, ``Layer(...)`` is the layer itself."""

from ..network import Network as Network
from ..network import Spec as Spec
from ..network import detach as detach
from ..network import join as join
from ..network import stack as stack
from .base import Layer as Layer
from .convolution import Conv2d as Conv2d
from .convolution import Conv2dLayer as Conv2dLayer
from .dense import DenseLayer as DenseLayer
from .dense import DropconnectDenseLayer as DropconnectDenseLayer
from .input import InputLayer as InputLayer
from .merge import ConcatLayer as ConcatLayer
from .merge import ElementwiseLayer as ElementwiseLayer
from .noise import DropoutLayer as DropoutLayer
from .noise import GaussianNoiseLayer as GaussianNoiseLayer
from .pooling import MaxPool2d as MaxPool2d
from .pooling import MeanPool2d as MeanPool2d
from .pooling import PoolLayer as PoolLayer
from .reconstruction import ReconLayer as ReconLayer
from .reconstruction import ReconNetwork as ReconNetwork
from .shape import FlattenLayer as FlattenLayer
from .shape import ReshapeLayer as ReshapeLayer
from .wrapping import LambdaLayer as LambdaLayer
from .wrapping import TorchLayer as TorchLayer
