"""What torch does, in less time: the same functions and layers, faster on a CPU or a GPU.

Other packages import from here; the modules are:

- ``layout``: memory formats; ``convolution``, ``pooling``, ``dropout``: CPU versions of these.
- ``norm``: batch norm of lifted maps, with ``norm_cpu`` and ``norm_gpu`` for the training step.
- ``jet``: group convolutions whose cost is linear in the order of the group.
- ``kernel_cache``: the kernel of a layer in evaluation mode.
- ``recompute``: activation checkpointing; ``graphs``: CUDA graphs.
- ``modes``: what torch is doing around a layer (capturing, transforming, casting).
- ``inductor``: where ``torch.compile`` keeps generated code.
"""

from .convolution import conv2d
from .dropout import Dropout
from .graphs import release_graphs, replay_as_graphs
from .inductor import set_inductor_cache
from .kernel_cache import CachedKernel
from .layout import ChannelsLast
from .modes import full_precision
from .norm import BatchNorm
from .pooling import MaxPool
from .recompute import recompute_in_backward

__all__ = [
    "BatchNorm",
    "ChannelsLast",
    "Dropout",
    "CachedKernel",
    "MaxPool",
    "conv2d",
    "full_precision",
    "recompute_in_backward",
    "release_graphs",
    "replay_as_graphs",
    "set_inductor_cache",
]
