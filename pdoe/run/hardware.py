"""The device of a run, and the settings whose ``auto`` depends on hardware and model."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..fast import ChannelsLast, jet, set_inductor_cache
from ..layers import GroupConv, LiftingConv

DEEP = 100  # residual blocks from which on the maps of a batch fill the memory
SWITCHES = (
    "compile", "cuda_graph", "channels_last", "deterministic", "checkpoint_activations",
    "algorithm",
)  # fmt: skip


def resolve_device(device: str) -> torch.device:
    """Return the device of a name; ``auto`` is the first GPU, or the CPU if there is none.

    Raises:
        ValueError: the name has another form, or this machine has no such GPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", str(device)):
        raise ValueError(f"device is auto, cpu, cuda or cuda:1, not {device!r}")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device}: PyTorch finds no GPU here; use device=cpu or auto")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={device}: {torch.cuda.device_count()} GPUs are here, from cuda:0")
    return chosen


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision; ``auto`` is bf16 where the hardware multiplies it, else fp32.

    Raises:
        ValueError: the precision is not auto, bf16, fp32 or fp64.
    """
    if precision not in ("auto", "bf16", "fp32", "fp64"):
        raise ValueError(f"precision is auto, bf16, fp32 or fp64, not {precision!r}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if fast else "fp32"


def device_name(device: torch.device) -> str:
    """Return the name of a GPU or of the CPU, such as "NVIDIA H200" or "CPU AMD EPYC"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        names = re.findall(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M
        )
    except OSError:
        names = []
    return f"CPU {names[0]}" if names else "CPU"


@dataclass(frozen=True)
class Settings:
    """How a network is run. No setting changes more than rounding and the draws of dropout.

    Attributes:
        compile: ``torch.compile`` of every residual block, or of a network without blocks.
        cuda_graph: record the passes of a training step once and replay them, on a GPU that would
            wait for the host; see :func:`pdoe.fast.replay_as_graphs`.
        channels_last: the memory format of convolutions, and on a CPU of all maps of a
            :class:`PlainCNN` or :class:`ResNet`; None: the faster format, on a GPU by width.
        deterministic: bit-identical numbers when a run is repeated; slower on a GPU.
        checkpoint_activations: keep only the inputs of the blocks and recompute the other maps in
            the backward pass: less memory, a third more time.
        algorithm: of group convolutions with a jet form: "dense", "jet", or "auto", the faster one.
    """

    compile: bool
    cuda_graph: bool
    channels_last: bool | None
    deterministic: bool
    checkpoint_activations: bool
    algorithm: str

    @staticmethod
    def check(asked: Mapping[str, Any]) -> None:
        """Raise a ValueError if a setting has a value that is not in its list."""
        if asked["algorithm"] not in jet.ALGORITHMS:
            words = ", ".join(jet.ALGORITHMS)
            raise ValueError(f"algorithm is one of {words}, not {asked['algorithm']!r}")
        for name in SWITCHES:
            if name != "algorithm" and asked[name] != "auto" and not isinstance(asked[name], bool):
                raise ValueError(f"{name} is auto, true or false, not {asked[name]!r}")

    @classmethod
    def resolve(
        cls, asked: Mapping[str, Any], device: torch.device, model: nn.Module, ranks: int = 1
    ) -> tuple[Settings, list[str]]:
        """Choose the settings that are ``auto``.

        Returns:
            The settings, and one line for each, such as "compile: no".

        Raises:
            ValueError: a setting has another value, or the model or device lacks it.
        """
        cls.check(asked)
        gpu = device.type == "cuda"
        blocks = len(getattr(model, "blocks", ()))
        choices = {
            # No faster on a CPU, and on a GPU a graph is faster: experiments/benchmarks.
            "compile": False,
            "channels_last": None,
            "deterministic": True,
            "checkpoint_activations": blocks >= DEEP,
        }
        chosen = {n: v if asked[n] == "auto" else asked[n] for n, v in choices.items()}
        # Graphs were not tried with recomputation, compilation or several ranks.
        others = chosen["compile"] or chosen["checkpoint_activations"]
        auto = gpu and ranks == 1 and not others
        chosen["cuda_graph"] = auto if asked["cuda_graph"] == "auto" else asked["cuda_graph"]
        if chosen["cuda_graph"] and not (gpu and ranks == 1):
            where = "several processes" if gpu else f"a {device.type}"
            raise ValueError(f"cuda_graph is not possible on {where}; set it to auto or false")
        if chosen["checkpoint_activations"] and not blocks:
            raise ValueError(
                f"checkpoint_activations: {type(model).__name__} has no blocks to recompute; "
                "set it to auto or false"
            )
        words = {True: "yes", False: "no", None: "as measured"}
        said = [f"{format_setting(name)}: {words[value]}" for name, value in chosen.items()]
        if (algorithm := asked["algorithm"]) == "jet":
            _require_jet(model, device)
        return cls(**chosen, algorithm=algorithm), said

    def apply(self, model: nn.Module) -> None:
        """Change the model so that it runs with these settings."""
        for module in model.modules():
            if isinstance(module, LiftingConv | GroupConv | ChannelsLast):
                module.channels_last = self.channels_last
        for layer in jet.find_layers(model):
            layer.algorithm = self.algorithm
        if self.checkpoint_activations:
            model.checkpoint_activations = True
        if self.compile:
            set_inductor_cache()
            # All blocks share their code, and each width, stride and mode is a graph of its own.
            torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
            for part in getattr(model, "blocks", None) or [model]:
                part.compile(dynamic=False)  # the batches of a run have one shape


def _require_jet(model: nn.Module, device: torch.device) -> None:
    """Raise a ValueError if a network has no jet form here."""
    if not jet.find_layers(model):
        raise ValueError(
            f"algorithm=jet: {type(model).__name__} has no group convolution with bank "
            f"{' or '.join(jet.BANKS)}; set it to auto or dense"
        )
    if not jet.can_run(device.type):
        raise ValueError(
            "algorithm=jet needs a C++ compiler on a CPU, and Triton on a GPU; set it to auto or "
            "dense"
        )


def format_setting(switch: str) -> str:
    """Return the name of a setting as logs and records have it."""
    return switch.replace("_", " ")


def make_repeatable(device: torch.device, deterministic: bool = True) -> None:
    """Make a GPU repeat its numbers bit for bit, and compute fp32 in float32, as a CPU does."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        # Do not fill new tensors first: no code here reads what it has not written.
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
