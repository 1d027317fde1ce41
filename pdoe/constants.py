"""Tensors that a module computes and does not learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Constants(nn.Module):
    """A module with constants: buffers that stay out of its ``state_dict``.

    They are made anew, in float64, where the module moves: ``.double()`` loses no digits, and
    ``.to_empty()`` leaves no garbage, nor does loading with ``assign=True`` into a module on the
    meta device. Weights that are loaded keep fitting when a constant changes. Index tables are
    integers: an average of buffers has to copy them, as :func:`moving_average` does.
    """

    def __init__(self):
        super().__init__()
        self.register_load_state_dict_post_hook(_follow)

    def _constants(self) -> dict[str, np.ndarray | Tensor]:
        """Name -> exact value; integers stay integers, the rest takes the dtype of the weight."""
        raise NotImplementedError

    def _fill_constants(self) -> None:
        """Make them in the dtype and on the device of the weight, or of those that were there."""
        weight = next(self.parameters(), None)  # a pruned or parametrised one has another name
        for name, exact in self._constants().items():
            # Not `as_tensor`, which would put it where a device context says.
            exact = torch.from_numpy(exact) if isinstance(exact, np.ndarray) else exact
            like = weight if weight is not None else getattr(self, name, torch.empty(0))
            dtype = like.dtype if exact.is_floating_point() else exact.dtype
            value = exact.to(like.device, dtype, copy=True)  # a table of the group is not shared
            self.register_buffer(name, value, persistent=False)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self._fill_constants()
        return self


def _follow(module: Constants, _) -> None:
    """After loading: weights that were assigned may have another device or dtype."""
    weight = next(module.parameters(), None)
    for buffer in module.buffers(recurse=False) if weight is not None else ():
        kind = buffer.dtype if buffer.is_floating_point() else weight.dtype
        if (buffer.device, kind) != (weight.device, weight.dtype):
            module._fill_constants()
            return
