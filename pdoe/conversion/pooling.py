"""What pooling, padding and flattening become."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ..layers import GroupPool
from .layers import HalvingPool, PlaneWise
from .values import FEATURES, IMAGE, LIFTED, POOLED, Call, Replacement


def replace_flatten(call: Call) -> Replacement:
    flatten = call.module
    if (flatten.start_dim, flatten.end_dim) not in ((1, -1), (1, 3)):
        raise call.refuse("it flattens other axes than channels and pixels; use nn.Flatten()")
    return flatten_map(call)


def flatten_map(call: Call) -> Replacement:
    """Return the flattening of a map; a lifted one is pooled over orientations and pixels first."""
    value, flatten = call.value, nn.Flatten(1)
    if value.kind == IMAGE:
        raise call.refuse("it flattens the image; put a convolution before it")
    result = replace(value, kind=FEATURES, last=False)
    if value.kind == LIFTED:
        return Replacement(flatten, result, make_invariant(call))
    return Replacement(flatten, result)


def make_invariant(call: Call) -> nn.Sequential:
    """Pooling of a lifted map over orientations and pixels.

    A gate needs the mean over the group, a head the largest response, as in the paper's networks.
    """
    over_group = "mean" if call.branches else "max"
    largest = isinstance(call.module, nn.AdaptiveMaxPool2d)
    over_pixels = nn.AdaptiveMaxPool2d(1) if largest else nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(GroupPool("max" if largest else over_group), over_pixels)


def replace_adaptive_pool(call: Call) -> Replacement:
    value, size = call.value, call.module.output_size
    single = set(size if isinstance(size, tuple | list) else [size]) == {1}
    if value.kind == POOLED:
        return Replacement(nn.Identity(), value)
    if value.kind == LIFTED and (single or call.head):
        result = replace(value, kind=POOLED, gate=call.branches)
        return Replacement(make_invariant(call), result)
    return replace_plane_wise(call)


def replace_pool(call: Call) -> Replacement:
    """Replace max and average pooling by windows."""
    pool, value = call.module, call.value
    if value.kind == POOLED:
        return Replacement(nn.Identity(), value)
    if value.last or value.kind == FEATURES:
        raise call.refuse(f"it gets {value.kind} in another order of axes; permute them")
    average = isinstance(pool, nn.AvgPool2d)
    if call.head and average and value.kind == LIFTED:
        return Replacement(make_invariant(call), replace(value, kind=POOLED))
    size, stride, padding = map(_pair, (pool.kernel_size, pool.stride, pool.padding))
    if any(a != b for a, b in (size, stride, padding)):
        raise call.refuse("its window differs between rows and columns; use a square one")
    if getattr(pool, "return_indices", False):
        raise call.refuse("it returns indices of pixels, which do not rotate; leave them out")
    if not call.settings.exact or (stride[0] == 1 and size[0] % 2):
        return replace_plane_wise(call)
    if stride[0] == 1 or stride[0] & (stride[0] - 1):
        raise call.refuse(
            f"a window of {size[0]}x{size[0]} pixels at stride {stride[0]} is not exact on maps of "
            "every size; use stride 2, or pass exact=False"
        )
    halving = HalvingPool("mean" if average else "max", stride[0].bit_length() - 1)
    return Replacement(halving, value)


def replace_plane_wise(call: Call) -> Replacement:
    if call.value.kind not in (IMAGE, LIFTED) or call.value.last:
        raise call.refuse(f"it gets {call.value.kind} in another order of axes; permute them")
    if call.value.kind == IMAGE:
        return Replacement(call.module, call.value)
    return Replacement(PlaneWise(call.module), call.value)


def replace_pad(call: Call) -> Replacement:
    if call.settings.exact and len(set(call.module.padding)) > 1:
        raise call.refuse(
            f"it pads {list(call.module.padding)} pixels on the four sides; pad all alike, or pass "
            "exact=False"
        )
    return replace_plane_wise(call)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
