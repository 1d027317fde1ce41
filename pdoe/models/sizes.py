"""The one check of networks that are made for images of one size."""

from torch import Tensor


def check_size(x: Tensor, size: int) -> None:
    """Refuse with a ValueError what is not [B, C, size, size].

    What stands for a tensor while torch.fx follows a network has no size, and is let through.
    """
    if isinstance(x, Tensor) and (x.ndim != 4 or x.shape[-2:] != (size, size)):
        raise ValueError(
            f"this network is made for images [B, C, {size}, {size}], not {list(x.shape)}; "
            "give image_size"
        )
