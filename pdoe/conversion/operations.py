"""What functions and methods of a traced network become, by name."""

from __future__ import annotations

from collections.abc import Callable

from .arithmetic import (
    apply_softmax,
    combine_elementwise,
    concatenate_maps,
    interpolate_map,
    pad_map,
    reduce_pixels,
    split_channels,
)  # fmt: skip
from .axes import (
    expand_axes,
    flatten_axes,
    get_item,
    permute_axes,
    read_attribute,
    read_size,
    squeeze_axes,
    transpose_axes,
    unsqueeze_axes,
)  # fmt: skip
from .functions import ELEMENTWISE
from .operation import Operation

OPERATIONS: dict[str, Callable[[Operation], None]] = {
    **dict.fromkeys(ELEMENTWISE, combine_elementwise),
    **dict.fromkeys(("cat", "concat", "concatenate"), concatenate_maps),
    **dict.fromkeys(("flatten", "view", "reshape"), flatten_axes),
    **dict.fromkeys(("mean", "amax"), reduce_pixels),
    **dict.fromkeys(("expand", "expand_as"), expand_axes),
    **dict.fromkeys(("softmax", "log_softmax"), apply_softmax),
    "chunk": split_channels,
    "dim": read_size,
    "getattr": read_attribute,
    "getitem": get_item,
    "interpolate": interpolate_map,
    "pad": pad_map,
    "permute": permute_axes,
    "size": read_size,
    "split": split_channels,
    "transpose": transpose_axes,
    "squeeze": squeeze_axes,
    "unsqueeze": unsqueeze_axes,
}
