"""Networks that torch quantized and exported (PT2E), against torch running them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import selector
from selector.graph.pipeline import quantized
from tests.graph.modules import operators

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch deprecates parts of itself as it is imported
    torch = pytest.importorskip("torch", reason="torch is not installed", exc_type=ImportError)
    pytest.importorskip("torchao", reason="torchao is not installed", exc_type=ImportError)
    from torch import nn
    from torch.ao.quantization.fx import _decomposed  # noqa: F401  # makes the operators known to torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from torchao.testing.pt2e import _xnnpack_quantizer as xnnpack

    from selector.graph.compile import _session
    from selector.graph.frontends import torch_import
    from selector.target import resolve

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch about itself
OPS = torch.ops.quantized_decomposed
IMAGE = (1, 3, 16, 16)


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, act: Any = None) -> nn.Module:
    layers = [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class Inverted(nn.Module):
    """An inverted residual of MobileNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv(8, 16, 1, act=nn.ReLU6), conv(16, 16, 3, groups=16, act=nn.ReLU6), conv(16, 8, 1)
        )

    def forward(self, x):
        return x + self.conv(x)


class Mobile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 8, 3, 2, act=nn.ReLU6), Inverted())
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 10))

    def forward(self, x):
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1))
        self.left = nn.Sequential(conv(8, 16, 3, 2, act=nn.ReLU), conv(16, 16, 3))
        self.right = conv(8, 16, 1, 2)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        y = self.left(x)
        y += self.right(x)
        return self.fc(self.relu(y).mean((2, 3)))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.fc(nn.functional.max_pool2d(x, 2).mean((2, 3)))


def x86_quantizer(**how: bool) -> Any:
    return x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(**how))


def xnnpack_quantizer(**how: bool) -> Any:
    return xnnpack.XNNPACKQuantizer().set_global(xnnpack.get_symmetric_quantization_config(**how))


QUANTIZERS = {"x86": x86_quantizer, "xnnpack": partial(xnnpack_quantizer, is_per_channel=True)}


def exported(make: Callable[[], nn.Module], quantizer: Any, fold: bool = True) -> Any:
    """A network quantized after calibration on random images, as an ExportedProgram."""
    torch.manual_seed(0)
    network = make().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    images = torch.randn(2, *IMAGE)
    with torch.no_grad():
        prepared = prepare_pt2e(torch.export.export(network, (images[0],)).module(), quantizer)
        for image in images:
            prepared(image)
        return torch.export.export(convert_pt2e(prepared, fold_quantize=fold), (images[0],))


def check(program: Any, images: int = 5) -> tuple[list[str], list[str]]:
    """Compares with torch in steps of the last quantize, and the lowerings with each other.

    Returns the names of the layers, and the operators that are left when all passes of the graph have run.
    """
    step = [node for node in program.graph.nodes if ".quantize_per_tensor" in str(node.target)][-1].args[1]
    module = selector.load(program)
    decisions = selector.explain(module, policy="int8")
    assert all(decision.lowering == "int8" for decision in decisions), [decision.reason for decision in decisions]
    int8, int16 = (selector.compile(module, policy=name, threads=1) for name in ("int8", "int16"))
    shape, reference = int8.inputs[0].shape, program.module()
    for image in np.random.default_rng(0).standard_normal((images, *shape), "float32"):
        (found,), (other,) = int8.run(image), int16.run(image)
        with torch.no_grad():
            expected = reference(torch.from_numpy(image)).numpy()
        np.testing.assert_array_equal(found, other)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1.01 * step)
        assert np.ptp(expected) > 50 * step, "a test of nothing"
    left = operators(quantized(module, _session(resolve("native"), "int8", 1)))
    return [decision.layer for decision in decisions], left


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_depthwise_network(quantizer):
    layers, left = check(exported(Mobile, QUANTIZERS[quantizer]()))
    assert layers == ["features.0.0", *(f"features.1.conv.{index}.0" for index in range(3)), "classifier.1"]
    assert "clip" not in left  # XNNPACK's has a quantize before each ReLU6 and the same one behind it


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_residual_network(quantizer):
    layers, _ = check(exported(Residual, QUANTIZERS[quantizer]()))
    assert layers == ["stem.0.0", "left.0.0", "left.1.0", "right.0", "fc"]


def test_range_of_seven_bits():
    """The values are clipped once, in the layer, and not again where they are moved."""
    _, left = check(exported(Small, x86_quantizer(reduce_range=True)))
    assert left.count("clip") == 2  # of the input and the mean, which are no layers


def test_weights_that_the_program_quantizes():
    layers, _ = check(exported(Small, xnnpack_quantizer(is_per_channel=False), fold=False))
    assert layers == ["conv", "fc"]


class Written(nn.Module):
    """A function of its input."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x):
        return self.function(self, x)


def written(function: Callable[[Any, Any], Any], shape: tuple[int, ...] = IMAGE) -> Any:
    torch.manual_seed(0)
    return torch.export.export(Written(function).eval(), (torch.randn(shape),))


def through(x: Any, scale: float, zero: int, low: int, high: int, dtype: Any) -> Any:
    """``x`` quantized and dequantized."""
    return OPS.dequantize_per_tensor(
        OPS.quantize_per_tensor(x, scale, zero, low, high, dtype), scale, zero, low, high, dtype
    )


def test_quantized_bias_is_the_accumulators():
    def network(self, x):
        x = through(x, 0.02, 110, 0, 255, torch.uint8)
        weight = through(self.weight, 0.03, 0, -127, 127, torch.int8)
        bias = through(self.bias, 0.02 * 0.03, 0, -(2**31), 2**31 - 1, torch.int32)
        return through(torch.conv2d(x, weight, bias), 0.1, 0, -128, 127, torch.int8)

    layers, _ = check(written(network))
    assert layers == ["convolution"]  # no module, so the node's name


@pytest.mark.parametrize("overload", ["tensor", "tensor2"])
def test_parameters_that_are_tensors(overload):
    def network(self, x):
        bounds = (-10, 100) if overload == "tensor" else (torch.tensor(-10), torch.tensor(100))
        params = (torch.tensor(0.02), torch.tensor(2), *bounds, torch.int8)
        quantize, dequantize = OPS.quantize_per_tensor, OPS.dequantize_per_tensor
        return getattr(dequantize, overload)(getattr(quantize, overload)(x, *params), *params)

    same(written(network))


def test_data_quantized_per_channel():
    def network(self, x):
        params = (torch.tensor([0.01, 0.02, 0.03]), torch.tensor([0, 30, 50]), 1, 0, 100, torch.uint8)
        return OPS.dequantize_per_channel(OPS.quantize_per_channel(x, *params), *params)

    same(written(network))


def same(program: Any) -> None:
    """Compares with torch where no value is near a tie."""
    image = np.random.default_rng(0).standard_normal(IMAGE, "float32")
    (found,) = selector.compile(program, threads=1).run(image)
    with torch.no_grad():
        expected = program.module()(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_dynamic_quantization_is_refused():
    quantizer = xnnpack_quantizer(is_per_channel=True, is_dynamic=True)
    with pytest.raises(selector.ModelError, match="dynamic quantization"):
        selector.load(exported(Small, quantizer))


def test_scales_from_data_are_refused():
    def network(self, x):
        return OPS.quantize_per_tensor.tensor(x, x.max(), torch.tensor(0), 0, 255, torch.uint8)

    with pytest.raises(selector.ModelError, match=r"takes '\w+' from data"):
        selector.load(written(network))


def test_zero_points_outside_of_the_type_are_refused():
    def network(self, x):
        return OPS.quantize_per_tensor(x, 0.1, 300, 0, 255, torch.uint8)

    with pytest.raises(selector.ModelError, match="zero points from 300 to 300, which uint8 has not"):
        selector.load(written(network))


def test_operators_without_a_converter_are_named():
    with pytest.raises(selector.ModelError, match=r"no converter for torch's _linalg_det\.default"):
        selector.load(written(lambda self, x: torch.linalg.det(x)))


def test_dynamic_shapes_are_refused():
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(nn.ReLU(), (torch.randn(2, 3),), dynamic_shapes=({0: batch},))
    with pytest.raises(selector.ModelError, match="without dynamic_shapes"):
        selector.load(program)


def test_networks_that_change_their_buffers_are_refused():
    program = torch.export.export(conv(3, 8, 3).train(), (torch.randn(2, 3, 8, 8),))
    with pytest.raises(selector.ModelError, match=r"changes '1\.running_mean' as it runs.*eval mode"):
        selector.load(program)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda self, node: self.env[node.args[0]], r"node 'view'.*has the shape \(1, 3, 16, 16\), not \(3, 256\)"),
        (lambda self, node: None, r"node 'view'.*has the shape None"),
    ],
)
def test_wrong_conversions_are_found(monkeypatch, wrong, text):
    monkeypatch.setattr(torch_import.ExportedProgramImporter, "_reshape", wrong)
    with pytest.raises(selector.ModelError, match=text):
        selector.load(written(lambda self, x: x.view(3, 256)))


def test_failures_of_the_importer_name_the_node(monkeypatch):
    def fails(self, node):
        raise ValueError("no\nsuch thing")

    monkeypatch.setattr(torch_import.ExportedProgramImporter, "_reshape", fails)
    with pytest.raises(selector.ModelError, match=r"^tvm's torch importer fails on node 'view'.*: such thing$"):
        selector.load(written(lambda self, x: x.view(3, 256)))
