"""Settings that travel together: the images, the constants of batch norm, the filters."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Images(NamedTuple):
    """The images that a network classifies.

    Attributes:
        channels: 1 for grey images, 3 for colours.
        classes: number of logits.
        size: height and width in pixels.
    """

    channels: int = 1
    classes: int = 10
    size: int = 28

    def check(self, x: Tensor) -> None:
        """Refuse a tensor that is not [B, C, size, size].

        The placeholders that torch.fx traces a network with have no size, and pass.

        Raises:
            ValueError: for another shape.
        """
        if isinstance(x, Tensor) and (x.ndim != 4 or x.shape[-2:] != (self.size, self.size)):
            raise ValueError(
                f"this network takes images [B, C, {self.size}, {self.size}], not "
                f"{list(x.shape)}: build it with images=Images(size=...)"
            )


DIGITS = Images()
COLOURS = Images(channels=3, size=32)


class Norm(NamedTuple):
    """The constants of batch norm, in PyTorch's sense.

    Attributes:
        eps: added to the variance.
        momentum: weight of a new batch in the running statistics; None: their plain mean.
    """

    eps: float = 1e-5
    momentum: float | None = 0.1


NORM = Norm()  # the constants of PyTorch


class Filters(NamedTuple):
    """The filters of all convolutions of a network, see :class:`pdoe.LiftingConv`."""

    bank: str = "operators"
    offset: float = 0.0
    bank_width: float | None = None


OPERATORS = Filters()
