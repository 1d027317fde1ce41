"""The walk over a traced network that replaces its modules and adapts its functions."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import replace

import torch
from torch import fx, nn

from ..layers import GroupPool
from .functions import make_module, read_axes, read_name
from .modules import replace_module
from .operation import Operation
from .operations import OPERATIONS
from .pooling import flatten_map, make_invariant
from .tracing import count_map_users, feeds_flatten, find_final_layers, read_tensor
from .values import (
    FEATURES,
    IMAGE,
    LIFTED,
    MAPS,
    OTHER,
    PARAMETER,
    PARTS,
    POOLED,
    SHUFFLED,
    SIZES,
    Call,
    Replacement,
    Settings,
    Value,
    describe_place,
    refuse,
)  # fmt: skip


class Rewriter:
    """Rewrites a graph in order of execution.

    Attributes:
        values: what each node carries in the converted network.
        replaced: name of a module, or of a function -> the original and what took its place.
    """

    def __init__(self, traced: fx.GraphModule, settings: Settings):
        self.traced, self.graph, self.settings = traced, traced.graph, settings
        self.modules = dict(traced.named_modules())  # before the rewriting
        self.final = find_final_layers(traced)
        self.heads = {node for node in self.graph.nodes if feeds_flatten(traced, node)}
        self.branches = {node for node in self.graph.nodes if count_map_users(node) > 1}
        self.values: dict[fx.Node, Value] = {}
        self.replaced: dict[str, tuple[nn.Module, Replacement]] = {}
        self.names: dict[str, dict[tuple, list[str]]] = {}
        self.aliases: list[fx.Node] = []  # nodes whose operation the converted map does not need

    def rewrite(self) -> None:
        """Rewrite all nodes.

        Raises:
            ValueError: a node cannot be converted.
        """
        for node in list(self.graph.nodes):
            with self.graph.inserting_before(node):
                if node.op == "placeholder":
                    first = not any(value.kind == IMAGE for value in self.values.values())
                    self.values[node] = Value(IMAGE, 0) if first else Value(OTHER)
                elif node.op == "get_attr":
                    self.read_parameter(node)
                elif node.op == "output":
                    self.finish(node)
                elif node.op == "call_module":
                    self.call_module(node, self.modules[str(node.target)], str(node.target))
                else:
                    self.call_function(node)
        for node in self.aliases:
            node.replace_all_uses_with(node.args[0])
            self.graph.erase_node(node)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.traced.delete_all_unused_submodules()

    def value_of(self, node: object) -> Value:
        return self.values.get(node, Value(OTHER)) if isinstance(node, fx.Node) else Value(OTHER)

    def read_parameter(self, node: fx.Node) -> None:
        tensor = read_tensor(self.traced, str(node.target))
        wide = [n for n in tensor.shape if n > 1] if isinstance(tensor, torch.Tensor) else []
        self.values[node] = Value(PARAMETER, wide[0] if len(wide) == 1 else len(wide) and -1)

    def call_module(self, node: fx.Node, module: nn.Module, name: str) -> None:
        if node.kwargs and node.op == "call_module":
            given = inspect.signature(type(module).forward).bind(module, *node.args, **node.kwargs)
            node.args, node.kwargs = given.args[1:], given.kwargs
        value = self.value_of(node.args[0]) if node.args else Value(OTHER)
        if value.kind == IMAGE and isinstance(module, nn.Conv2d):
            value = replace(value, channels=module.in_channels, original=module.in_channels)
        if value.kind not in MAPS:
            if value.kind in (PARTS, SHUFFLED, SIZES, PARAMETER):
                raise refuse(name, type(module).__name__, f"it gets {value.kind}; give it a map")
            self.values[node] = Value(OTHER)
            return
        self.use(node, replace_module(self.make_call(node, module, name, value)), name, module)

    def make_call(self, node: fx.Node, module: nn.Module, name: str, value: Value) -> Call:
        source = node.args[0]
        flags = str(node.target) in self.final, node in self.heads, source in self.branches
        return Call(name, module, value, self.settings, *flags)

    def use(self, node: fx.Node, new: Replacement, name: str, module: nn.Module) -> None:
        """Make a node call a module, with pooling before and after it.

        A module that is called twice with maps of one kind keeps one weight.
        """
        known, value = self.names.setdefault(name, {}), self.value_of(node.args[0])
        key = value.kind, value.channels, value.last, new.value.channels
        if key not in known:
            if known and any(True for _ in module.parameters()):
                raise refuse(
                    name,
                    type(module).__name__,
                    f"it is called with maps of {value.channels} fields and of another width, "
                    "which cannot share weights; give equal widths by match={name: fields}",
                )
            target = self.free_name(name) if known else name
            known[key] = [target, f"{target}_before", f"{target}_after"]
            self.replaced.setdefault(name, (module, new))
            parts = new.module, new.before, new.after
            for part_name, part in zip(known[key], parts, strict=True):
                if part is not None:
                    self.modules.setdefault(part_name, part)
                    self.traced.add_submodule(part_name, part)
        target, before, after = known[key]
        node.op, node.target, node.kwargs = "call_module", target, {}
        node.args = (node.args[0],)
        if new.before is not None:
            node.args = (self.graph.call_module(before, node.args),)
        self.values[node] = new.value
        if new.after is not None:
            with self.graph.inserting_after(node):
                last = self.graph.call_module(after, (node,))
            node.replace_all_uses_with(last, lambda user: user is not last)
            self.move_flags(node, last)
            self.values[last] = new.value

    def move_flags(self, node: fx.Node, last: fx.Node) -> None:
        for flagged in (self.heads, self.branches):
            if node in flagged:
                flagged.add(last)

    def free_name(self, name: str) -> str:
        names = (f"{name}_{number}" for number in itertools.count(1))
        return next(free for free in names if free not in self.modules)

    def call_function(self, node: fx.Node) -> None:
        values = {source: self.value_of(source) for source in node.all_input_nodes}
        kinds = {value.kind for value in values.values()}
        if kinds <= {OTHER}:
            self.values[node] = Value(OTHER)
            return
        module = make_module(node, self.values)
        if module is not None and self.value_of(node.args[0]).kind in MAPS:
            self.call_module(node, module, self.free_name(f"{node.name}_module"))
            return
        name = read_name(node)
        rule = OPERATIONS.get(name)
        place = describe_place(node)
        if rule is None:
            raise Operation(self, node, name, place, kinds).refuse_unknown()
        rule(Operation(self, node, name, place, kinds))

    def pool_map(self, node: fx.Node) -> None:
        """Convert a reduction over the pixels of a lifted map."""
        value, (_, keep) = self.value_of(node.args[0]), read_axes(node)
        kind = nn.AdaptiveMaxPool2d if read_name(node) == "amax" else nn.AdaptiveAvgPool2d
        name = self.free_name(f"{node.name}_module")
        call = self.make_call(node, kind(1), name, value)
        pool = make_invariant(call)
        after = None if keep else nn.Flatten(1)
        last = value.last and keep
        result = replace(value, kind=POOLED if keep else FEATURES, last=last, gate=call.branches)
        self.use(node, Replacement(pool, result, None, after), name, call.module)

    def flatten(self, node: fx.Node) -> None:
        """Convert a function that flattens a map."""
        value = self.value_of(node.args[0])
        name = self.free_name(f"{node.name}_module")
        call = self.make_call(node, nn.Flatten(1), name, value)
        self.use(node, flatten_map(call), name, call.module)

    def shuffle(self, node: fx.Node, groups: int) -> None:
        """Convert the function that begins a shuffle of channels."""
        module = nn.ChannelShuffle(groups)
        new = Replacement(module, replace(self.value_of(node.args[0]), kind=SHUFFLED))
        self.use(node, new, self.free_name(f"{node.name}_module"), module)

    def finish(self, node: fx.Node) -> None:
        """Pool lifted outputs over the group."""
        for source in node.all_input_nodes:
            value = self.value_of(source)
            if value.kind == LIFTED:
                if value.last:
                    raise refuse("", "output", "it is a channels-last map; permute it back")
                name = self.free_name("group_pool")
                self.modules[name] = pool = GroupPool("max")
                self.traced.add_submodule(name, pool)
                node.replace_input_with(source, self.graph.call_module(name, (source,)))
            elif value.kind in (PARTS, SHUFFLED, SIZES):
                raise refuse("", "output", f"it is {value.kind} of a map; return the map")
