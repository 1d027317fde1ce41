"""Tensors that a module computes instead of learning them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Constants(nn.Module):
    """A module with constants: buffers that stay out of its ``state_dict``.

    Constants are computed in float64, and computed again when the module moves. So ``.double()``
    gains all digits, and ``.to_empty()`` or loading with ``assign=True`` into a module on the meta
    device leaves no uninitialised memory. Checkpoints stay readable when a constant changes.
    Averages of buffers must copy index tables, which are integers.
    """

    def __init__(self):
        super().__init__()
        self.register_load_state_dict_post_hook(_follow_weight)

    def _constants(self) -> dict[str, np.ndarray | Tensor]:
        """Return the exact values by name; all but integers take the dtype of the weight."""
        raise NotImplementedError

    def _fill_constants(self) -> None:
        """Compute the constants in the dtype and on the device of the weight or, without one, of
        the constants before."""
        weight = next(self.parameters(), None)  # a pruned or parametrised one has another name
        for name, exact in self._constants().items():
            # Not `as_tensor`, which follows a device context.
            exact = torch.from_numpy(exact) if isinstance(exact, np.ndarray) else exact
            like = weight if weight is not None else getattr(self, name, torch.empty(0))
            dtype = like.dtype if exact.is_floating_point() else exact.dtype
            value = exact.to(like.device, dtype, copy=True)  # never share a table of the group
            self.register_buffer(name, value, persistent=False)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self._fill_constants()
        return self


def _follow_weight(module: Constants, _) -> None:
    """Recompute constants after weights of another device or dtype were assigned by loading."""
    weight = next(module.parameters(), None)
    for buffer in module.buffers(recurse=False) if weight is not None else ():
        kind = buffer.dtype if buffer.is_floating_point() else weight.dtype
        if (buffer.device, kind) != (weight.device, weight.dtype):
            module._fill_constants()
            return
