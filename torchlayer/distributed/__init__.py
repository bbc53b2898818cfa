"""More than one process: classes divided among ranks, data-parallel batches brought together, checkpoints of both.

Everything here works without a process group, too, as one rank that has nobody to talk to.
"""

from ._ranks import gather_rows as gather_rows
from ._ranks import own_classes as own_classes
from .checkpoint import restore as restore
from .checkpoint import save as save
from .class_parallel import class_parallel_nce_loss as class_parallel_nce_loss
from .class_parallel import class_parallel_sampled_softmax_loss as class_parallel_sampled_softmax_loss
from .launch import Process as Process
from .launch import process_group as process_group
from .modules import ClassParallelNCELoss as ClassParallelNCELoss
from .modules import ClassParallelSampledSoftmaxLoss as ClassParallelSampledSoftmaxLoss
