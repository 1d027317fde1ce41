"""Export of equivariant networks as ordinary ones, with the filter banks multiplied out."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import operator
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import fx, nn

from .fast import BatchNorm, ChannelsLast, Dropout, MaxPool
from .layers import GroupConv, GroupPool, LiftingConv
from .planar import (
    PlanarMap,
    has_forward_of,
    make_plain_conv,
    make_planar_module,
    make_torch_module,
)

_LAYERS = (LiftingConv, GroupConv, GroupPool, MaxPool, Dropout, BatchNorm, ChannelsLast)
_ELEMENTWISE_FUNCTIONS = (
    operator.add, operator.iadd, operator.sub, operator.mul, torch.add, torch.sub, torch.mul,
    torch.relu, F.relu, F.elu, F.gelu, F.silu,
)  # fmt: skip


def export_plain(model: nn.Module) -> fx.GraphModule:
    """Rewrite a network as one of ``torch.nn`` modules alone, in evaluation mode.

    Each equivariant convolution becomes an ``nn.Conv2d`` with its kernel. Lifted maps
    [B, C, G, H, W] become planar ones [B, CG, H, W] before modules that treat all orientations
    alike: batch norm with running statistics, elementwise functions, pooling over space. Other
    modules still get lifted maps. The outputs are those of ``model.eval()`` up to rounding. The
    result runs, pickles and goes through ``torch.export`` where ``pdoe`` is not installed.

    Args:
        model: the network; it stays unchanged.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: the forward pass cannot be traced (it branches on values or sizes of tensors, or
            calls parts of an equivariant layer instead of the layer); or the model or a layer to be
            replaced has hooks.

    >>> import pdoe
    >>> p4 = pdoe.PointGroup(4)
    >>> net = nn.Sequential(pdoe.LiftingConv(p4, 1, 2), nn.BatchNorm3d(2), pdoe.GroupPool())
    >>> [type(module).__name__ for module in export_plain(net).children()]
    ['Conv2d', 'BatchNorm2d']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"export_plain takes a torch.nn.Module, not {type(model).__name__}")
    model = copy.deepcopy(getattr(model, "_orig_mod", model)).eval()  # without torch.compile
    if has_forward_of(model, *_LAYERS):
        model = nn.Sequential(model)
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except (fx.proxy.TraceError, TypeError, ValueError) as error:
        raise ValueError(
            f"the forward pass of {type(model).__name__} cannot be followed ({error}); it must not "
            "depend on values or sizes of tensors"
        ) from error
    refuse_hooks(model, "the model")
    rewritten = fx.GraphModule(tracer.root, graph)
    _Rewriter(rewritten).rewrite()
    graph.lint()
    anonymous = fx.Graph()  # without our tracer, which a pickle would import
    anonymous.output(anonymous.graph_copy(graph, {}))
    return fx.GraphModule(rewritten, anonymous, type(model).__name__).eval()


def load_exported_weights(plain: nn.Module, path: str | Path) -> nn.Module:
    """Load the weights of an exported file (``.pt2``) into a plain network, without running code.

    ``torch.export.load`` unpickles objects of the file, so a crafted file executes code. This
    function reads only numbers.

    Args:
        plain: the result of :func:`export_plain` for the same network; it determines the names,
            shapes and dtypes, and gets the weights in place.
        path: a file of ``torch.export.save``.

    Returns:
        ``plain``.

    Raises:
        ValueError: the file is damaged, or holds the weights of another network.
    """
    weights = plain.state_dict()
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            listed = json.loads(archive.read(names["data/weights/model_weights_config.json"]))
            entries = listed["config"]
            if set(entries) != set(weights):
                odd = min(set(entries) ^ set(weights))
                raise ValueError(f"{path} holds the weights of another network: {odd!r} differs")
            for name, tensor in weights.items():
                stored = names[f"data/weights/{entries[name]['path_name']}"]
                meta = entries[name]["tensor_meta"]
                shape = [length["as_int"] for length in meta["sizes"]]
                if (
                    shape != list(tensor.shape)
                    or archive.getinfo(stored).file_size != tensor.nbytes
                ):
                    raise ValueError(
                        f"{path} holds the weights of another network: {name!r} is {shape}, "
                        f"not {list(tensor.shape)} of {tensor.dtype}"
                    )
                numbers = torch.frombuffer(bytearray(archive.read(stored)), dtype=tensor.dtype)
                strides = [stride["as_int"] for stride in meta["strides"]]
                tensor.copy_(numbers.as_strided(shape, strides))
    except (zipfile.BadZipFile, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__})") from None
    return plain


def refuse_hooks(module: nn.Module, name: str) -> None:
    """Raise ``ValueError`` if a module has hooks, which its substitute would not call."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(
            f"{name} has hooks on its forward pass, which an export cannot have: remove them "
            "(those of pruning and of weight norm with their own remove functions)"
        )


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return has_forward_of(module, *_LAYERS) or super().is_leaf_module(module, name)


class _Rewriter:
    """Replaces the layers of a graph, in order of execution."""

    def __init__(self, plain: fx.GraphModule):
        self.plain, self.graph = plain, plain.graph
        self.modules = dict(plain.named_modules())  # before the rewriting
        self.names: dict[str, dict[PlanarMap | None, str]] = {}
        self.lifted: dict[fx.Node, PlanarMap] = {}
        self.read: list[str] = []  # names of tensors that the forward pass reads from modules

    def rewrite(self) -> None:
        called = {str(node.target) for node in self.graph.nodes if node.op == "call_module"}
        for node in list(self.graph.nodes):
            with self.graph.inserting_before(node):
                if node.op == "get_attr":
                    self.keep(node, called)
                elif node.op == "call_module":
                    self.call(node, self.modules[node.target])
                elif kind := self.elementwise(node):
                    self.lifted[node] = kind
                else:
                    self.fold_inputs(node)

    def keep(self, node: fx.Node, called: set[str]) -> None:
        """Store a tensor that is read from a module apart, since the module may be replaced."""
        owner, _, name = str(node.target).rpartition(".")
        if owner in called:
            value = getattr(self.modules[owner], name).detach().clone()
            node.target = f"_read_{len(self.read)}"
            self.read.append(node.target)
            self.plain.register_buffer(node.target, value)

    def call(self, node: fx.Node, module: nn.Module) -> None:
        """Rewrite a node that calls a module."""
        if node.kwargs:
            forward = inspect.signature(type(module).forward)
            given = forward.bind(module, *node.args, **node.kwargs)
            node.args, node.kwargs = given.args[1:], given.kwargs
        kind = self.lifted.get(node.args[0]) if node.args else None
        if has_forward_of(module, LiftingConv, GroupConv):
            if kind is None and has_forward_of(module, GroupConv):
                node.args = (self.graph.call_method("flatten", (node.args[0], 1, 2)),)
            self.use(node, None, make_plain_conv(module))
            self.lifted[node] = PlanarMap(module.out_channels, len(module.group))
        elif has_forward_of(module, GroupPool):
            refuse_hooks(module, str(node.target))
            self.fold_inputs(node)
            pool = "amax" if module.kind == "max" else "mean"
            node.op, node.target, node.args = "call_method", pool, (node.args[0], 2)
        elif has_forward_of(module, ChannelsLast):
            refuse_hooks(module, str(node.target))
            node.replace_all_uses_with(node.args[0])
            self.graph.erase_node(node)
        else:
            planar = make_planar_module(module, kind) if kind else None
            if planar is None:
                self.fold_inputs(node)
                self.use(node, None, make_torch_module(module))
            else:
                self.use(node, kind, planar)
                self.lifted[node] = kind

    def use(self, node: fx.Node, kind: PlanarMap | None, module: nn.Module) -> None:
        """Make a node call ``module``; maps of several kinds need several modules."""
        target = str(node.target)
        if module is not self.modules[target]:
            refuse_hooks(self.modules[target], target)
        names = self.names.setdefault(target, {})
        if kind not in names:
            free = (f"{target}_{number}" for number in itertools.count(1))
            names[kind] = next(n for n in free if n not in self.modules) if names else target
            self.modules.setdefault(names[kind], module)
            self.plain.add_submodule(names[kind], module.eval())
        node.target = names[kind]

    def elementwise(self, node: fx.Node) -> PlanarMap | None:
        """Return the common kind of the maps of an elementwise function, if there is one."""
        kinds = {self.lifted.get(source) for source in node.all_input_nodes}
        alike = node.op == "call_function" and node.target in _ELEMENTWISE_FUNCTIONS
        return kinds.pop() if alike and len(kinds) == 1 else None

    def fold_inputs(self, node: fx.Node) -> None:
        """Give a node lifted maps, as in the model, in place of planar ones."""
        for source in node.all_input_nodes:
            if kind := self.lifted.get(source):
                shape = (kind.channels, kind.order)
                folded = self.graph.call_method("unflatten", (source, 1, shape))
                node.replace_input_with(source, folded)
