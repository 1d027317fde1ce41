"""What a conversion did to each layer, what it costs, and how exact it is."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..equivariance import equivariance_error, equivariance_report
from ..groups import PointGroup
from ..layers import BankConv, GroupPool
from .layers import HalvingPool, PlaneWise
from .network import ConvertedNetwork
from .values import Replacement

MEASURED_PIXELS = 64  # side of the images on which errors are measured


@dataclass(frozen=True)
class Layer:
    """A module that was replaced.

    Attributes:
        name: of the module.
        before, after: the original and what took its place, in short.
        parameters: before and after.
        multiplications: for one image, before and after.
        error: largest relative error of its output over the elements that map the grid to itself;
            None where it was not measured.
    """

    name: str
    before: str
    after: str
    parameters: tuple[int, int]
    multiplications: tuple[int, int]
    error: float | None


@dataclass(frozen=True)
class Report:
    """A conversion in numbers; ``print`` it for a table.

    Attributes:
        group: name of the group.
        layers: the modules that were replaced, in order of execution.
        parameters: of the whole network, before and after.
        multiplications: for one image of ``image_size``, before and after.
        image_size: side of that image in pixels.
        error: largest relative error of the output over the elements of the group that map the
            pixel grid to itself, in float64; None if it was not measured.
        broken: the first layer whose error is not rounding, and why; "" if there is none.
        quarter_turns: largest relative error of the output over rotations by 90, 180 and 270
            degrees, whatever the group.
        outputs: shape of the output for one image, before and after. Those of a network without a
            classifier differ, since its output is a map of other width.
        left_out: modules that the network does not call in evaluation mode.
        decided: modules that branch on sizes of maps, as for images of ``image_size``.
    """

    group: str
    layers: list[Layer]
    parameters: tuple[int, int]
    multiplications: tuple[int, int]
    image_size: int
    error: float | None
    broken: str
    quarter_turns: float | None
    outputs: tuple[list[int], list[int]]
    left_out: list[str]
    decided: list[str]

    def __str__(self) -> str:
        rows = [("layer", "before", "after", "parameters", "multiplications", "error")]
        for layer in self.layers:
            error = "" if layer.error is None else f"{layer.error:.0e}"
            counts = map(_format_change, (layer.parameters, layer.multiplications))
            rows.append((layer.name, layer.before, layer.after, *counts, error))
        total = map(_format_change, (self.parameters, self.multiplications))
        largest = "" if self.error is None else f"{self.error:.0e}"
        rows.append(("total", "", self.group, *total, largest))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        if self.quarter_turns is not None:
            lines.append(f"error of the output at quarter turns: {self.quarter_turns:.0e}")
        if self.broken:
            lines.append(f"not exact from {self.broken}")
        if self.outputs[0] != self.outputs[1]:
            lines.append(f"the output is {self.outputs[1]}, not {self.outputs[0]}")
        if self.decided:
            side = f"{self.image_size}x{self.image_size}"
            lines.append(f"branches on sizes, decided for images of {side}: {self.decided}")
        if self.left_out:
            lines.append(f"left out, since evaluation does not call them: {self.left_out}")
        return "\n".join(lines)


def make_report(
    original: nn.Module,
    network: ConvertedNetwork,
    replaced: dict[str, tuple[nn.Module, Replacement]],
    decided: list[str],
    image_size: int,
    measure: bool,
) -> Report:
    """Count and measure both networks; they stay as they are."""
    channels = _read_channels(original)
    before, shape = _run(original, "", channels, image_size)
    after, new_shape = _run(network, "the converted ", channels, image_size)
    errors, broken, quarters = {}, "", None
    if measure:
        side = image_size if decided else min(image_size, MEASURED_PIXELS)
        errors, broken, quarters = _measure(network, channels, side)
    layers = [
        Layer(
            name, describe(old), _describe_replacement(new), (_count(old), _count(new.module)),
            (before.get(name, 0), after.get(name, 0)), errors.get(name),
        )
        for name, (old, new) in replaced.items()
        if type(old) is not type(new.module) or _count(new.module)
    ]  # fmt: skip
    kept = {name.partition(".")[0] for name, _ in network.named_parameters()}
    left_out = [name for name, child in original.named_children() if _count(child)]
    return Report(
        network.group.name,
        layers,
        (_count(original), _count(network)),
        (sum(before.values()), sum(after.values())),
        image_size,
        errors.get(""),
        broken,
        quarters,
        (shape, new_shape),
        [name for name in left_out if name not in kept],
        decided,
    )


def _run(model: nn.Module, which: str, channels: int, size: int) -> tuple[dict[str, int], list]:
    try:
        return count_multiplications(model, channels, size)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"cannot convert: {which}{type(model).__name__} does not run on images of "
            f"{size}x{size} pixels ({str(error).splitlines()[0]}); give another image_size"
        ) from error


@torch.no_grad()
def count_multiplications(
    model: nn.Module, channels: int, size: int
) -> tuple[dict[str, int], list[int]]:
    """Multiplications of each convolution and linear layer for one image [1, C, size, size].

    The second value is the shape of the output, or [] if the output is not a tensor.
    The model runs without numbers (on the ``meta`` device). Building kernels from banks is left
    out, since it does not grow with images.
    """
    counts: dict[str, int] = {}
    model = copy.deepcopy(model).to("meta").eval()

    def count(name: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            if isinstance(module, BankConv):
                kernel = module.kernel()
            else:
                kernel = module.weight
            counts[name] = counts.get(name, 0) + output.numel() * kernel[0].numel()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, BankConv | nn.Conv2d | nn.Linear):
            module.register_forward_hook(count(name))
    dtype = next(model.parameters()).dtype
    output = model(torch.empty(1, channels, size, size, device="meta", dtype=dtype))
    return counts, list(output.shape) if isinstance(output, Tensor) else []


def _measure(
    network: ConvertedNetwork, channels: int, side: int
) -> tuple[dict[str, float], str, float]:
    """Errors of all layers, the network itself being ""; the first that breaks; quarter turns."""
    group = network.group
    network = copy.deepcopy(network).cpu().double()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        images = torch.randn(2, channels, side, side, dtype=torch.float64)
        network.train()(images)  # statistics of batch norm, so that no map vanishes
        network.eval()
        report = equivariance_report(network, group, images[:1])
        broken = "" if report.first_broken is None else f"{report.first_broken}: {report.reason}"
        quarters = report.errors[""]
        if group.n % 4:
            turned = equivariance_error(network, PointGroup(4), images[:1])
            quarters = max(turned.values())
    return report.errors, broken, quarters


def describe(module: nn.Module) -> str:
    """Return a module in a few words.

    >>> describe(nn.Conv2d(3, 8, 5, stride=2))
    'Conv2d 3->8 5x5 /2'
    """
    name = type(module).__name__
    if isinstance(module, BankConv | nn.Conv2d):
        size = module.kernel_size
        size = size if isinstance(size, int) else size[0]
        stride = module.stride if isinstance(module.stride, int) else module.stride[0]
        groups = getattr(module, "groups", 1)
        bank = f" {module.bank_kind}" if isinstance(module, BankConv) else ""
        text = f"{name} {module.in_channels}->{module.out_channels}{bank} {size}x{size}"
        text += f" /{stride}" if stride > 1 else ""
        return text + (f" in {groups} groups" if groups > 1 else "")
    if isinstance(module, nn.Linear):
        return f"{name} {module.in_features}->{module.out_features}"
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return f"{name} {module.num_features}"
    if isinstance(module, nn.Sequential):
        return " + ".join(map(describe, module))
    if isinstance(module, HalvingPool):
        return f"{module.kind} of {2**module.times}x{2**module.times}"
    if isinstance(module, PlaneWise):
        return f"{describe(module.planar)} in each orientation"
    if isinstance(module, GroupPool):
        return f"{module.kind} over the group"
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return f"{name} {module.kernel_size} /{module.stride}"
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        return f"{name} {module.output_size}"
    return name


def _describe_replacement(new: Replacement) -> str:
    return ", ".join(describe(part) for part in (new.before, new.module, new.after) if part)


def _read_channels(model: nn.Module) -> int:
    return next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _format_change(pair: tuple[int, int]) -> str:
    return f"{pair[0]:,} -> {pair[1]:,}" if any(pair) else ""
