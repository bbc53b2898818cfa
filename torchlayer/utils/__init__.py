"""Training, measuring and small helpers."""

from .average import WeightAverage as WeightAverage
from .evaluate import accuracy as accuracy
from .evaluate import predict as predict
from .evaluate import test as test
from .fit import fit as fit
from .helpers import class_balancing_oversample as class_balancing_oversample
from .helpers import dict_to_one as dict_to_one
from .helpers import evaluation as evaluation
from .helpers import flatten_list as flatten_list
from .helpers import set_seed as set_seed
