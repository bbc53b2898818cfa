"""Optimisers that torch lacks: of rows, for gradients that touch few of them, and TensorFlow's RMSProp."""

from .rmsprop import TensorFlowRMSprop as TensorFlowRMSprop
from .rows import LazyAdam as LazyAdam
from .rows import RowAdagrad as RowAdagrad
from .rows import RowOptimizer as RowOptimizer
from .rows import RowSGD as RowSGD
from .rows import RowwiseAdagrad as RowwiseAdagrad
from .rows import fuse_into_backward as fuse_into_backward
