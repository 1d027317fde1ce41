"""The graph of a network, and which of its nodes make the output."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn

from .functions import AS_MODULES, ELEMENTWISE, read_name
from .modules import DROP_PATH, RULES
from .modules import ELEMENTWISE as ELEMENTWISE_MODULES
from .values import describe_place, refuse

_LEAVES = tuple(k for kinds, _ in RULES for k in (kinds if isinstance(kinds, tuple) else (kinds,)))
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_FLATTEN = ("flatten", "view", "reshape")


class _Tracer(fx.Tracer):
    """Follows a network down to the modules that have a rule."""

    broken: tuple[str, str] | None = None  # the innermost module whose forward pass failed
    decided: list[str]  # modules that branch on sizes

    def __init__(self, model: nn.Module, image_size: int):
        super().__init__()
        self.decided, self.sizes = [], None
        self.model, self.image_size = model, image_size

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        known = isinstance(module, _LEAVES) or type(module).__name__ in DROP_PATH
        return known or super().is_leaf_module(module, name)

    def to_bool(self, proxy: fx.Proxy) -> bool:
        """Decide a branch on sizes of maps as for images of ``image_size``."""
        if not _is_size(proxy.node):
            return super().to_bool(proxy)
        if self.sizes is None:
            self.sizes = _Sizes(self.model, self.graph, self.image_size)
        place = describe_place(proxy.node)
        self.decided += [place] if place not in self.decided else []
        return bool(self.sizes.evaluate(proxy.node))

    def call_module(self, module: nn.Module, forward, args: Any, kwargs: Any) -> Any:
        if self.sizes is not None and self.sizes.running:
            return forward(*args, **kwargs)
        try:
            return super().call_module(module, forward, args, kwargs)
        except Exception:
            self.broken = self.broken or (self.path_of_module(module), type(module).__name__)
            raise


class _Sizes:
    """Sizes of maps in a graph that is being traced, for one image without numbers."""

    def __init__(self, model: nn.Module, graph: fx.Graph, image_size: int):
        self.running = True
        model = copy.deepcopy(model).to("meta")
        channels = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
        dtype = next(model.parameters()).dtype
        image = torch.empty(1, channels, image_size, image_size, device="meta", dtype=dtype)
        self.interpreter = fx.Interpreter(model, garbage_collect_values=False, graph=graph)
        self.interpreter.args_iter = iter([image])
        self.graph, self.running = graph, False

    def evaluate(self, wanted: fx.Node) -> Any:
        """Return the value of a node that depends on sizes alone."""
        values, self.running = self.interpreter.env, True
        try:
            for node in self.graph.nodes:
                if node not in values:
                    values[node] = self.interpreter.run_node(node)
        finally:
            self.running = False
        return values[wanted]


def _is_size(node: fx.Node) -> bool:
    """Whether a node depends on sizes of maps, not on their numbers."""
    if _reads_size(node):
        return True
    return bool(node.all_input_nodes) and all(map(_is_size, node.all_input_nodes))


def _reads_size(node: fx.Node) -> bool:
    attribute = node.args[1] if node.target is getattr else ""
    return node.target in ("size", "dim", len) or attribute in ("shape", "ndim", "dtype", "device")


def trace(model: nn.Module, image_size: int) -> tuple[fx.GraphModule, list[str]]:
    """Return the graph of a network in evaluation mode, and the modules that branch on sizes.

    Branches on sizes are decided as for images of ``image_size``.

    Raises:
        ValueError: the forward pass cannot be followed.
    """
    for name, module in model.named_modules():
        projections = (getattr(module, key, None) for key in ("qkv", "to_qkv"))
        if isinstance(module, nn.MultiheadAttention) or any(
            isinstance(projection, nn.Linear) for projection in projections
        ):
            raise refuse(
                name,
                type(module).__name__,
                "attention between positions does not commute with rotations; convert a "
                "convolutional network, or the convolutional part of this one",
            )
    tracer = _Tracer(model, image_size)
    try:
        graph = tracer.trace(model)
    except Exception as error:
        name, kind = tracer.broken or ("", type(model).__name__)
        why = " ".join(str(error).split()).partition(". ")[0]
        raise refuse(
            name,
            kind,
            f"torch.fx cannot follow its forward pass ({why}); write it without branches on values "
            "of tensors and loops over their sizes, or convert its parts one by one",
        ) from error
    return fx.GraphModule(tracer.root, graph), tracer.decided


def find_final_layers(traced: fx.GraphModule) -> set[str]:
    """Names of the convolutions and linear layers whose output is the network's, up to pooling."""
    modules = dict(traced.named_modules())
    final: set[str] = set()
    output = next(node for node in traced.graph.nodes if node.op == "output")
    pending = list(output.all_input_nodes)
    while pending:
        node = pending.pop()
        if node.op == "call_module":
            module = modules[str(node.target)]
            if isinstance(module, nn.Conv2d | nn.Linear):
                final.add(str(node.target))
                continue
            if isinstance(module, _NORMS):
                continue
        elif node.op != "call_module" and not _keeps_channels(node):
            continue
        pending += node.all_input_nodes[:1]
    return final


def feeds_flatten(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a map is flattened next, up to activations and norms."""
    modules, pending = dict(traced.named_modules()), list(node.users)
    while pending:
        user = pending.pop()
        if user.op == "call_module":
            module = modules[str(user.target)]
            if isinstance(module, nn.Flatten):
                return True
            if not isinstance(module, (*_NORMS, *ELEMENTWISE_MODULES)):
                continue
        elif read_name(user) in _FLATTEN and user.op != "output":
            return True
        elif read_name(user) not in ELEMENTWISE:
            continue
        pending += user.users
    return False


def _keeps_channels(node: fx.Node) -> bool:
    name = read_name(node)
    reductions = (*_FLATTEN, "mean", "amax", "squeeze", "permute", "log_softmax", "softmax")
    unary = len(node.all_input_nodes) == 1
    return node.target in AS_MODULES or (unary and name in (*reductions, *ELEMENTWISE))


def count_map_users(node: fx.Node) -> int:
    """How many nodes use a map itself, not its sizes."""
    return sum(not _reads_size(user) for user in node.users)


def read_tensor(traced: nn.Module, name: str) -> torch.Tensor:
    """Return the parameter or buffer of a ``get_attr`` node."""
    owner, _, attribute = name.rpartition(".")
    return getattr(traced.get_submodule(owner), attribute)
