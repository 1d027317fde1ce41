"""The cases of `scripts/benchmark.py`, their rivals, and the targets for the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec

from torch import Tensor, nn

from pdoe import GroupConv, LiftingConv, PointGroup, export_plain
from pdoe.data import SETS
from pdoe.fast import BatchNorm, MaxPool

# ---- Cases --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A network, the shape of its input [B, C, H, W], and its rivals.

    ``plain`` makes the ordinary network with the same arithmetic (default: the result of
    :func:`pdoe.export_plain`), ``e2cnn`` an equal network of that library.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    size: int = 0  # planar channels of a layer, 0: a whole network
    plain: Callable[[], nn.Module] | None = None
    e2cnn: Callable[[], nn.Module] | None = None
    phases: tuple[str, ...] = ("train", "eval")

    def makers(self) -> dict[str, Callable[[], nn.Module]]:
        """The functions that make ours and its rivals; each takes the planar input of the case."""
        plain = self.plain or (lambda: export_plain(self.build()).train())
        makers = {"ours": self.build, "plain": plain}
        if self.e2cnn and find_spec("e2cnn"):
            makers["e2cnn"] = self.e2cnn
        if self.plain:  # ours is an ordinary network, too, in the same layout
            return makers
        # A network of ours chooses its layout; a part of one takes the layout of its input.
        last = [name for name in makers if self.size or name != "ours"]
        return makers | {f"{name}, channels last": makers[name] for name in last}


class OnPlanar(nn.Module):
    """Wrap a module on lifted maps as one on planar maps, the input of every contestant."""

    def __init__(self, module: nn.Module, fields: int):
        super().__init__()
        self.module, self.fields = module, fields

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.unflatten(1, (self.fields, -1))).flatten(1, 2)


class Residual(nn.Sequential):
    """A chain of layers plus the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def make_part(kind: str, name: str, fields: int, side: int, batch: int) -> Case:
    """A layer, a block (layer, norm, ReLU) or a pre-activation residual block of two layers."""
    group = PointGroup.named(name)

    def conv() -> nn.Module:
        return GroupConv(group, fields, fields)

    def norm() -> list[nn.Module]:
        return [BatchNorm(fields), nn.ReLU(inplace=True)]

    def build() -> nn.Module:
        if kind == "residual block":
            chain: nn.Module = Residual(*norm(), conv(), *norm(), conv())
        else:
            chain = nn.Sequential(conv(), *(norm() if kind == "block" else []))
        return OnPlanar(chain, fields)

    def peer() -> nn.Module:
        return make_e2cnn_part(kind, group, fields, conv().kernel_size)

    size = fields * len(group)
    return Case(
        f"{kind} {name}, {fields} fields, {side}x{side}, batch {batch}",
        build,
        (batch, size, side, side),
        size,
        # It has no group of one element, and its D_n fields fail on NumPy 2.3.
        e2cnn=None if len(group) == 1 or group.reflections or kind == "scaling" else peer,
        phases=("eval",) if kind == "scaling" else ("train", "eval"),
    )


def make_network(experiment: str, batch: int, *overrides: str) -> Case:
    """The network of an experiment file, for the images of its data set."""
    from pdoe.run.compose import compose_config
    from pdoe.run.config import build_model

    config = compose_config(f"experiment={experiment}", *overrides)
    shape = SETS[config["data"]["name"]].shape

    peer = make_e2cnn_p8 if experiment == "mnistrot_pdo_p8" and not overrides else None
    return Case(
        f"network {' '.join([experiment, *overrides])}, batch {batch}",
        lambda: build_model(config),
        (batch, *shape),
        e2cnn=peer,
    )


def make_exported(case: Case) -> Case:
    """The exported network of a case, with the same network written by hand as its rival."""

    def by_hand() -> nn.Module:
        layers: list[nn.Module] = []
        for module in case.build().modules():
            if isinstance(module, LiftingConv | GroupConv):
                _, inputs, k, _ = module.kernel().shape
                width = module.out_channels * len(module.group)
                layers += [
                    nn.Conv2d(inputs, width, k, padding=module.padding, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
            elif isinstance(module, MaxPool):
                layers.append(nn.MaxPool2d(2))
            elif isinstance(module, nn.Conv2d):
                layers += [nn.Conv2d(module.in_channels, 10, module.kernel_size, bias=False)]
        return nn.Sequential(*layers, nn.Flatten())

    def build() -> nn.Module:
        return export_plain(case.build())

    return Case(f"exported {case.name}", build, case.shape, plain=by_hand, phases=("eval",))


@cache  # composing the experiments takes a while
def list_cases(device: str = "cpu") -> list[Case]:
    """The cases for a device type; on a GPU the residual networks have batches of 128."""
    parts = [
        make_part(kind, group, fields, side, batch)
        for kind in ("layer", "block")
        for group, fields, side, batch in (
            ("p1", 128, 16, 64),
            ("p4", 32, 16, 64),
            ("p6", 6, 32, 64),
            ("p8", 7, 24, 128),
            ("p8", 16, 16, 64),
            ("p8", 16, 28, 64),
            ("p16", 8, 16, 64),
            ("p4m", 16, 16, 64),
            ("p6m", 12, 16, 64),
        )
    ]
    parts.append(make_part("residual block", "p6", 6, 32, 64))
    networks = [
        make_network("mnistrot_z2", 128),
        make_network("mnistrot_p4", 128),
        make_network("mnistrot_pdo_p8", 128),
        make_network("mnistrot_pdo_p8_large", 32),
        *(
            make_network(experiment, 128 if device == "cuda" else batch)
            for experiment, batch in (
                ("cifar10_resnet_26", 32),
                ("cifar10_pdo_p6_26", 32),
                ("cifar10_gcnn_p4m_44", 8),
                ("cifar10_pdo_p8_44", 8),
            )
        ),
    ]
    scaling = [
        make_part("scaling", group, fields, 16, 32)
        for group in ("p4", "p8", "p16")
        for fields in (2, 4, 8, 16)
    ]
    return [*parts, *networks, make_exported(networks[2]), *scaling]


# ---- e2cnn --------------------------------------------------------------------------------------


class OnTensors(nn.Module):
    """Wrap a network of e2cnn as one on tensors."""

    def __init__(self, module: nn.Module, fields):
        super().__init__()
        self.module, self.fields = module, fields

    def forward(self, x: Tensor) -> Tensor:
        from e2cnn.nn import GeometricTensor

        return self.module(GeometricTensor(x, self.fields)).tensor


def make_e2cnn_part(kind: str, group: PointGroup, count: int, size: int) -> nn.Module:
    """The same part in e2cnn: as many regular fields, the same support."""
    from e2cnn import gspaces
    from e2cnn import nn as enn

    space = gspaces.Rot2dOnR2(group.n)
    fields = enn.FieldType(space, count * [space.regular_repr])

    def conv() -> nn.Module:
        return enn.R2Conv(fields, fields, size, padding=size // 2, bias=False)

    def norm() -> list[nn.Module]:
        return [enn.InnerBatchNorm(fields), enn.ReLU(fields, inplace=True)]

    if kind == "residual block":
        return Residual(OnTensors(enn.SequentialModule(*norm(), conv(), *norm(), conv()), fields))
    layers = [conv(), *(norm() if kind == "block" else [])]
    return OnTensors(enn.SequentialModule(*layers), fields)


def make_e2cnn_p8() -> nn.Module:
    """The network mnistrot_pdo_p8 in e2cnn: the same sizes, fields, norm, pooling and head."""
    from e2cnn import gspaces
    from e2cnn import nn as enn

    space = gspaces.Rot2dOnR2(8)
    image = enn.FieldType(space, [space.trivial_repr])
    fields = enn.FieldType(space, 7 * [space.regular_repr])
    layers: list[nn.Module] = []
    for number in range(1, 7):
        layers += [
            enn.R2Conv(image if number == 1 else fields, fields, 5, padding=1, bias=False),
            enn.InnerBatchNorm(fields, eps=1e-3, momentum=1e-3),
            enn.ReLU(fields, inplace=True),
            enn.PointwiseMaxPool(fields, 2) if number == 2 else enn.PointwiseDropout(fields, 0.2),
        ]
    trunk = OnTensors(enn.SequentialModule(*layers), image)
    return nn.Sequential(trunk, nn.Conv2d(56, 10, 4, bias=False), nn.Flatten())


# ---- Targets ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A bound on one quantity of some lines; the worst of them counts."""

    what: str
    cases: str
    phase: str
    rival: str
    bound: float
    quantity: Callable[[dict[str, str]], float] = lambda line: float(line["ratio"])
    precision: str = "*"

    def of(self, lines: list[dict[str, str]]) -> list[float]:
        keys = {"case": self.cases, "phase": self.phase, "rival": self.rival}
        keys |= {"precision": self.precision}
        return [
            self.quantity(line)
            for line in lines
            if all(fnmatchcase(line[key], pattern) for key, pattern in keys.items())
        ]


def compare_memory(line: dict[str, str]) -> float:
    return float(line["ours_mib"]) / float(line["rival_mib"])


def seconds_for(images: int) -> Callable[[dict[str, str]], float]:
    return lambda line: images / float(line["images_per_second"])


P8, RESIDUAL = "network mnistrot_pdo_p8, *", "residual block p6, 6 fields, 32x32, *"
TARGETS = (
    Target("layer p8, 16 fields, training / plain", "layer p8, 16 *", "train", "plain*", 1.08),
    Target("block p8, 16 fields, training / plain", "block p8, 16 *", "train", "plain*", 1.15),
    Target("layer p8, 16 fields, evaluation / plain", "layer p8, 16 *", "eval", "plain*", 1.02),
    Target(
        "training step of mnistrot_pdo_p8 / e2cnn", P8, "train", "e2cnn*", 0.85, precision="fp32"
    ),
    Target("the same, both in bfloat16", P8, "train", "e2cnn*", 0.5, precision="bf16"),
    Target("residual block p6, 6 fields, training / plain", RESIDUAL, "train", "plain*", 1.15),
    Target("its peak memory / plain", RESIDUAL, "train", "plain*", 1.10, compare_memory),
    Target("exported network / the same by hand", "exported *", "eval", "plain*", 1.02),
    Target(
        "an epoch of mnistrot_pdo_p8, s", P8, "train", "plain*", 8.0, seconds_for(93 * 128), "bf16"
    ),
    Target("50,000 images evaluated, s", P8, "eval", "plain*", 6.0, seconds_for(50_000), "bf16"),
)
