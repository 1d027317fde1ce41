"""``pdoe.convert``: from an ordinary network to an equivariant one."""

from __future__ import annotations

import copy
from typing import NamedTuple

from torch import nn

from ..arguments import require_bool, require_integer, require_number
from ..equivariance.action import check_group
from ..groups import PointGroup
from ..layers import BankConv
from .network import ConvertedNetwork, make_network
from .report import Report, make_report
from .rewriting import Rewriter
from .tracing import trace
from .values import IMAGE, LIFTED, Settings, UnevenSplit
from .widths import Match, Widths

BANKS = ("operators", "gaussian", "pixels")


class Conversion(NamedTuple):
    """The converted network, and what became what."""

    model: ConvertedNetwork
    report: Report


def convert(
    model: nn.Module,
    group: PointGroup,
    *,
    bank: str = "operators",
    offset: float = 0.0,
    bank_width: float | None = None,
    match: Match = "parameters",
    exact: bool = True,
    image_size: int = 224,
    measure: bool = True,
) -> Conversion:
    r"""Make an equivariant network of the architecture of an ordinary one, with new weights.

    The first convolution lifts the image, the others become group convolutions: 3x3 kernels with
    ``bank``, larger ones with bank ``gaussian`` (or ``pixels``), 1x1 kernels with bank ``point``.
    Norms share statistics over orientations. Where the network flattens or pools globally, the map
    is pooled over orientations and pixels, so the logits are invariant. Gates such as
    squeeze-and-excitation are pooled over the group, too.

    With ``exact`` the output commutes with every element that maps the pixel grid to itself, up to
    rounding, on images of every size: a stride of 2 becomes a mean of 2x2 pixels (before a
    convolution, but after the first), max pooling a maximum of 2x2 pixels. Without it strides and
    pools stay, which is exact on some sizes alone.

    Args:
        model: the network, images [B, C, H, W] -> logits; it stays unchanged. Its weights are not
            used.
        group: the point group G.
        bank: for 3x3 kernels, "operators" or "gaussian"; or "pixels" for all kernels, on p1, p2, p4
            and p1m, p2m, p4m.
        offset, bank_width: of the filter banks, see :func:`pdoe.filter_bank`.
        match: fields of the layers. "parameters": channels / sqrt\|G\|, about as many parameters;
            "cost": channels / \|G\|, about as many multiplications; a factor of the channels; a
            mapping {name of a layer: fields}, others as "parameters"; or a function of name and
            channels.
        exact: whether strides and pooling are made exact.
        image_size: side of the images for which the report counts multiplications. Branches on
            sizes of maps are decided as for these images.
        measure: whether to measure the equivariance errors of all layers, on images of at most
            64x64 pixels. With ``exact``, a network with an error above rounding is refused.

    Returns:
        The network and a report. The network has the keys of the original's ``state_dict``, apart
        from layers that it does not call, and the attribute ``group``.

    Raises:
        TypeError: an argument of another type.
        ValueError: an argument of another form, or a network that cannot be converted. The message
            has the module's name, the reason, and what to do.

    >>> import torch
    >>> net = nn.Sequential(
    ...     nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.Flatten(), nn.Linear(784, 5)
    ... )
    >>> model, report = convert(net, PointGroup(4), image_size=17)
    >>> model(torch.randn(2, 3, 17, 17)).shape, model.group.name
    (torch.Size([2, 5]), 'p4')
    >>> report.quarter_turns < 1e-10
    True
    """
    settings = _read_settings(model, group, bank, offset, bank_width, match, exact)
    image_size = require_integer("image_size", image_size, 1)
    require_bool("measure", measure)
    original = copy.deepcopy(getattr(model, "_orig_mod", model)).eval()
    try:
        rewriter, decided = _rewrite(original, settings, image_size)
    except UnevenSplit as split:  # with fields that can be split
        settings.widths.plan(split.parts)
        rewriter, decided = _rewrite(original, settings, image_size)
    if not any(value.kind == LIFTED for value in rewriter.values.values()):
        raise ValueError(f"cannot convert {type(model).__name__}: it has no convolution of {IMAGE}")
    network = make_network(rewriter.traced, group, type(model).__name__)
    report = make_report(original, network, rewriter.replaced, decided, image_size, measure)
    if exact and report.broken:
        raise ValueError(
            f"cannot convert {type(model).__name__} exactly: its first layer with an error is "
            f"{report.broken}; replace it, or pass exact=False"
        )
    return Conversion(network.train(model.training), report)


def _rewrite(model: nn.Module, settings: Settings, image_size: int) -> tuple[Rewriter, list[str]]:
    traced, decided = trace(model, image_size)
    rewriter = Rewriter(traced, settings)
    rewriter.rewrite()
    return rewriter, decided


def _read_settings(model, group, bank, offset, bank_width, match, exact) -> Settings:
    """Check the arguments of a conversion."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert takes a torch.nn.Module, not {type(model).__name__}")
    check_group(group)
    for name, module in model.named_modules():
        if isinstance(module, BankConv):
            raise ValueError(f"cannot convert {name}: it is a layer of pdoe already")
    if bank not in BANKS:
        raise ValueError(f"bank is one of {', '.join(BANKS)}, not {bank!r}")
    if bank == "pixels" and group.n not in (1, 2, 4):
        raise ValueError(f"bank 'pixels' has no filters for {group.name}; use bank 'operators'")
    offset = require_number("offset", offset, "a finite angle in radians")
    widths = Widths(match, group, model)
    return Settings(group, bank, offset, bank_width, require_bool("exact", exact), widths)
