"""The Triton kernel of the jet form, on a CPU: in Triton's interpreter, and compiled for a GPU.

The interpreter replaces the compiler when Triton is imported, so it runs in a process of its own:
this file as a program.
"""

import copy
import json
import os
import subprocess
import sys
from unittest import mock

import pytest
import torch

from pdoe import GroupConv, PointGroup
from pdoe.fast.jet import form_of, function

pytest.importorskip("triton")
# Group, batch, map, and the rest of a layer of two fields in and three out.
CASES = {
    "both kinds of blocks, each image by itself": ("p3m", 2, (5, 7), {"offset": 0.3, "bias": True}),
    "real blocks alone, stride": ("p2", 1, (9, 8), {"offset": 0.2, "stride": 2, "padding": 1}),
    "one rotation": ("p1", 1, (6, 5), {"bank": "gaussian", "size": 7, "stride": 3}),
}


def find_errors():
    """Largest errors of results and gradients, by cases and by precisions."""
    from pdoe.fast.jet import gpu

    torch.manual_seed(0)
    gpu.BLOCK, gpu.SLOT_BYTES = 256, 10_000
    found = {}
    for name, (group, batch, size, options) in CASES.items():
        layer = GroupConv(PointGroup.named(group), 2, 3, dtype=torch.float64, **options)
        if layer.bias is not None:
            torch.nn.init.normal_(layer.bias)
        x = torch.randn(batch, 2, len(layer.group), *size).double()[..., ::2].requires_grad_()
        each = []
        for algorithm in ("jet", "dense"):
            layer.algorithm = algorithm
            y = layer(x)
            gradient = torch.ones_like(y).cumsum(-1).cumsum(-2)
            gradient = torch._neg_view(gradient)  # as of a complex conjugate
            each.append([y, *torch.autograd.grad(y, [x, *layer.parameters()], gradient)])
        found[name] = max(relative(*pair) for pair in zip(*each, strict=True))
    return found | {"bfloat16": find_error_of_short_numbers()}


def find_error_of_short_numbers():
    layer = GroupConv(PointGroup(4), 3, 3)
    exact = copy.deepcopy(layer).double()
    x = torch.randn(1, 3, 4, 6, 6).bfloat16()
    form, given = form_of(layer), x.double().requires_grad_()
    expected = exact(given)
    gradients = torch.autograd.grad(expected.sum(), [given, exact.weight])
    with torch.no_grad():
        ours = function.compute(x, layer.weight, None, form)
        both = True, True
        found = function.compute_gradients(x, layer.weight, torch.ones_like(x), form, both)
    found = ours, *found
    assert [each.dtype for each in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
    return max(map(relative, found, (expected, *gradients)))


def relative(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


def test_the_interpreted_kernel_computes_the_dense_layer():
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in CASES:
        assert found[name] < 1e-12, (name, found)
    assert found["bfloat16"] < 2 * torch.finfo(torch.bfloat16).eps, found


def test_the_kernel_compiles_for_a_gpu(tmp_path, monkeypatch):
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from pdoe.fast.jet import gpu

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    signature = {
        "source": "*bf16", "slots": "*bf16", "tables": ("*fp32", "*fp32", "*i64"),
        "strides": ("i32",) * 5, "lattices": (("i32",) * 6, ("i32",) * 4),
        "sizes": "constexpr", "width": "constexpr", "number": "constexpr",
    }  # fmt: skip
    constants = {"sizes": (8, 1, 5, 128), "width": 32, "number": tl.float32}
    source = ASTSource(gpu.write_slots, signature, constexprs=constants)
    assert compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


if __name__ == "__main__":
    with mock.patch.object(function, "_is_gpu", lambda device: True):
        print(json.dumps(find_errors()))
