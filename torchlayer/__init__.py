"""TensorLayer's layers, losses and loops on PyTorch modules.

>>> import torch, torchlayer as tl
>>> net = tl.layers.InputLayer((None, 784), name="input_layer")
>>> net = tl.layers.DenseLayer(net, n_units=800, act=torch.relu, name="relu1")
>>> net = tl.layers.DenseLayer(net, n_units=10, name="output_layer")
>>> loss = tl.cost.cross_entropy(net(torch.rand(32, 784)), torch.randint(10, (32,)))
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from . import activation as activation
from . import checkpoint as checkpoint
from . import cost as cost
from . import files as files
from . import initializers as initializers
from . import iterate as iterate
from . import kernels as kernels
from . import layers as layers
from . import ops as ops
from . import utils as utils
from ._version import __version__ as __version__
from .carry import Carry as Carry
from .network import Network as Network
from .resumable import Resumable as Resumable
from .step import TrainStep as TrainStep

if _TYPE_CHECKING:
    from . import distributed as distributed
    from . import nlp as nlp
    from . import nn as nn
    from . import optim as optim
    from . import prepro as prepro
    from . import rein as rein
    from . import testing as testing
    from . import visualize as visualize

act = activation  # the original's short name

# importing all would take twice as long
_AT_FIRST_USE = ("distributed", "nlp", "nn", "optim", "prepro", "rein", "testing", "visualize")


def __getattr__(name: str) -> object:
    if name in _AT_FIRST_USE:
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_AT_FIRST_USE})
