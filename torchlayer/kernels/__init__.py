"""The Python half of csrc, one small file per op.

A line here makes a function public; the loop below lets every module define its ops, with or without such a line.
"""

from importlib import import_module
from pkgutil import iter_modules

from ._library import Backend as Backend
from ._library import Compiled as Compiled
from ._library import compiled as compiled
from .adam import adam_ as adam_
from .bad_ids import check_ids as check_ids
from .custom import compile_library as compile_library
from .custom import define as define
from .discounted_sum import discounted_sum as discounted_sum
from .draw_top_k import draw_top_k as draw_top_k
from .linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from .lstm_step import lstm_step as lstm_step
from .nce import nce_loss as nce_loss
from .row_adagrad import row_adagrad_ as row_adagrad_
from .row_adam import row_adam_ as row_adam_
from .row_rowwise_adagrad import row_rowwise_adagrad_ as row_rowwise_adagrad_
from .row_sgd import row_sgd_ as row_sgd_
from .sampled_softmax import sampled_softmax_loss as sampled_softmax_loss
from .samplers import FixedUnigram as FixedUnigram
from .samplers import LearnedUnigram as LearnedUnigram
from .samplers import SampledValues as SampledValues
from .samplers import all_candidate_sampler as all_candidate_sampler
from .samplers import fixed_unigram_sampler as fixed_unigram_sampler
from .samplers import learned_unigram_sampler as learned_unigram_sampler
from .samplers import log_uniform_sampler as log_uniform_sampler
from .samplers import uniform_sampler as uniform_sampler
from .skip_gram import skip_gram_ as skip_gram_

for _module in iter_modules(__path__):
    if not _module.name.startswith("_"):
        import_module(f"{__name__}.{_module.name}")
