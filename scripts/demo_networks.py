"""Trained networks as the page of `make demo` reads them: a list of operations, and numbers.

A convolution is stored as its small weight and its filter bank, [C', C, H, K] and [G, K, k, k], and
the page multiplies them. Batch norm is part of the weight and the bias. So float32 is small enough.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from pdoe import export_plain, load_pretrained
from pdoe.layers import GroupConv, LiftingConv
from pdoe.pretrained import read_index


class Numbers:
    """Arrays as one row of float32 numbers; an array that comes twice is stored once."""

    def __init__(self):
        self.parts: list[bytes] = []
        self.starts: dict[bytes, int] = {}
        self.length = 0

    def add(self, values: torch.Tensor | np.ndarray) -> int:
        """Return the index of the first number."""
        raw = np.ascontiguousarray(values, "<f4").tobytes()
        if raw not in self.starts:
            self.starts[raw] = self.length
            self.parts.append(raw)
            self.length += len(raw) // 4
        return self.starts[raw]

    def encode(self) -> str:
        """Return base64 of the little-endian numbers."""
        return base64.b64encode(b"".join(self.parts)).decode("ascii")


def pack_networks(names: list[str]) -> dict[str, Any]:
    """Describe networks of the package: ``{"networks": [...], "numbers": base64}``.

    Raises:
        ValueError: a network has an operation that the page cannot run; the message names it.
    """
    numbers = Numbers()
    return {"networks": [_pack(name, numbers) for name in names], "numbers": numbers.encode()}


def _pack(name: str, numbers: Numbers) -> dict[str, Any]:
    network, entry = load_pretrained(name), read_index()[name]
    return {
        "name": name,
        "group": entry["configuration"]["group"]["name"],
        "parameters": entry["parameters"],
        "error": entry["test_error"],
        "side": entry["image"][1],
        "classes": entry["classes"],
        "mean": entry["mean"],
        "std": entry["std"],
        "transposed": entry["transposed"],
        "ops": list_operations(network, numbers),
    }


def list_operations(network: nn.Module, numbers: Numbers) -> list[dict[str, Any]]:
    """Describe the operations of a network in their order, following ``export_plain``.

    Raises:
        ValueError: see :func:`pack_networks`.
    """
    plain, ops = export_plain(network), []
    layers, modules = dict(network.named_modules()), dict(plain.named_modules())
    previous = None
    for node in plain.graph.nodes:
        if node.op in ("placeholder", "output"):
            previous = node
            continue
        if node.all_input_nodes != [previous]:
            raise ValueError(f"{node.name} does not follow {previous}: the page runs chains only")
        previous = node
        module = modules[str(node.target)] if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d):
            ops.append(_describe_convolution(layers[str(node.target)], module, numbers))
        elif isinstance(module, nn.BatchNorm2d) and ops and ops[-1]["kind"] == "convolution":
            _fold_norm(ops[-1], module)
        elif isinstance(module, nn.ReLU) and ops and ops[-1]["kind"] == "convolution":
            ops[-1]["relu"] = True
        elif isinstance(module, nn.MaxPool2d) and (module.kernel_size, module.stride) == (2, 2):
            ops.append({"kind": "pool"})
        elif node.op == "call_method" and node.target == "amax":
            ops.append({"kind": "groupmax", "order": ops[-1]["order"]})
        elif not (isinstance(module, (nn.Dropout, nn.Flatten)) or _only_reshapes(node)):
            raise ValueError(f"the page cannot run {node.name} ({module or node.target})")
    for op in ops:
        if op["kind"] == "convolution":
            op["weight"], op["bias"] = numbers.add(op["weight"]), numbers.add(op["bias"])
    return ops


def _only_reshapes(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target in ("flatten", "unflatten")


def _describe_convolution(layer: nn.Module, plain: nn.Conv2d, numbers: Numbers) -> dict[str, Any]:
    """The operation, with weight [C', C, H, K] and bias [C'] still as tensors."""
    if (plain.stride, plain.groups, plain.dilation) != ((1, 1), 1, (1, 1)):
        raise ValueError(f"the page cannot run {plain}: stride, groups and dilation must be 1")
    if isinstance(layer, (LiftingConv, GroupConv)):
        weight, bank = layer.weight.detach(), layer.bank
        weight = weight if isinstance(layer, GroupConv) else weight[:, :, None]
        order, bias = len(layer.group), layer.bias
        relative = np.asarray(layer.group.quotient)
        relative = relative if isinstance(layer, GroupConv) else np.zeros((order, 1), int)
    else:
        weight, order, bias = plain.weight.detach().flatten(2)[:, :, None], 1, plain.bias
        bank = torch.eye(weight.shape[3]).unflatten(1, plain.kernel_size)[None]
        relative = np.zeros((1, 1), int)
    outputs, inputs, order_in, filters = weight.shape
    return {
        "kind": "convolution",
        "outputs": outputs, "inputs": inputs, "order": order, "orderIn": order_in,
        "filters": filters, "size": plain.kernel_size[0], "padding": plain.padding[0],
        "relative": relative.tolist(),
        "relu": False,
        "weight": weight.double(),
        "bias": torch.zeros(outputs).double() if bias is None else bias.detach().double(),
        "bank": numbers.add(bank),
    }  # fmt: skip


def _fold_norm(op: dict[str, Any], norm: nn.BatchNorm2d) -> None:
    """Make batch norm, which all orientations of a field share, part of weight and bias."""
    mean, variance, gain, shift = (
        values.detach()[:: op["order"]].double()
        for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    scale = gain / (variance + norm.eps).sqrt()
    op["weight"] = op["weight"] * scale[:, None, None, None]
    op["bias"] = (op["bias"] - mean) * scale + shift
