"""Tensors that a module computes and does not learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Constants(nn.Module):
    """A module with constants: buffers that stay out of its ``state_dict``.

    They are made anew, in float64, where the module moves: ``.double()`` loses no digits, and
    ``.to_empty()`` leaves no garbage. Weights that are loaded keep fitting when a constant changes.
    """

    def _constants(self) -> dict[str, np.ndarray | Tensor]:
        """Name -> exact value; integers stay integers, the rest takes the dtype of the weight."""
        raise NotImplementedError

    def _fill_constants(self) -> None:
        """Make them in the dtype and on the device of the weight, or of those that were there."""
        weight = getattr(self, "weight", None)
        for name, exact in self._constants().items():
            # Not `as_tensor`, which would put it where a device context says.
            exact = torch.from_numpy(exact) if isinstance(exact, np.ndarray) else exact
            like = weight if weight is not None else getattr(self, name, torch.empty(0))
            dtype = like.dtype if exact.is_floating_point() else exact.dtype
            self.register_buffer(name, exact.to(like.device, dtype), persistent=False)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self._fill_constants()
        return self
