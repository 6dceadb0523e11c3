"""Whole compilations against onnxruntime with graph optimizations off, and what a compiled model can do."""

import subprocess
import sys

import numpy as np
import pytest
import tvm
from tvm import relax

import selector
from tests.graph.modules import dequantize, module, quantize, run, weight
from tests.models import qdq_block_model, qdq_conv_model, qdq_dense_model, random_inputs, reference

CONVOLUTIONS = {
    f"{data} x {kernel}": {"data_dtype": data, "weight_dtype": kernel, "weight_zero_point": zero}
    for data in ("uint8", "int8")
    for kernel, zero in (("uint8", 128), ("int8", 0))
} | {
    "int8 to uint8": {"data_dtype": "int8", "out_dtype": "uint8"},
    "per channel, zero points": {"per_channel": True, "weight_zero_point": [-128, 127, 0, 3] * 3},
    "data zero point at the end": {"data_zero_point": 255, "weight_dtype": "int8", "weight_zero_point": 1},
    "strides, padding, dilation": {"strides": (2, 1), "pads": (1, 0, 2, 3), "dilations": (1, 2)},
    "grouped": {"groups": 4, "per_channel": True},
    "depthwise": {"groups": 8, "out_channels": 8},
    "depthwise, multiplier 3": {"groups": 8, "out_channels": 24, "weight_dtype": "uint8", "weight_zero_point": 100},
    "1x1, batch 2": {"kernel": (1, 1), "pads": (0, 0, 0, 0), "batch": 2},
    "1x5": {"kernel": (1, 5), "pads": (0, 2, 0, 2)},
    "float bias, clip": {"bias": "float", "activation": "clip", "per_channel": True},
    "no bias, relu": {"bias": None, "activation": "relu"},
    "float result": {"quantize_output": False, "activation": "relu"},
    "float in and out": {"float_io": True},
    "7-bit weights": {"weight_bits": 7, "in_channels": 16},
}  # fmt: skip


RUNS = (("int8", 1), ("int16", 2))  # policy and threads: neither changes a bit of the result


def results(model, **options):
    """Outputs under both lowerings, checked to be the same bits."""
    feeds = random_inputs(model)
    outputs = []
    for policy in ("int8", "int16"):
        compiled = selector.compile(model, policy=policy, threads=1, **options)
        assert {decision.lowering for decision in compiled.decisions} == {policy}
        outputs.append(compiled.run(*feeds.values())[0])
    np.testing.assert_array_equal(outputs[0], outputs[1])
    return outputs[0], reference(model, feeds)[0]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name):
    actual, expected = results(qdq_conv_model(**CONVOLUTIONS[name]))
    assert actual.dtype == expected.dtype
    if expected.dtype == np.float32:
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    else:
        assert len(np.unique(expected)) > 10  # the comparison would mean little on clipped values
        assert np.abs(actual.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
@pytest.mark.parametrize("dtypes", [("uint8", "int8"), ("int8", "uint8")])
def test_dense(op, dtypes):
    data, kernel = dtypes
    model = qdq_dense_model(op=op, data_dtype=data, weight_dtype=kernel, per_channel=True)
    actual, expected = results(model)
    assert np.abs(actual.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("dtypes", [("uint8", "int8"), ("int8", "uint8")])
def test_network_with_every_pattern(dtypes):
    model = qdq_block_model(dtype=dtypes[0], weight_dtype=dtypes[1])
    feeds = random_inputs(model)
    first, second = (selector.compile(model, policy=name, threads=n).run(feeds["x"])[0] for name, n in RUNS)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - reference(model, feeds)[0]).max() <= 2 * 0.03  # two steps of the output


def test_nhwc_network():
    def build(emit, x):
        kernel = emit(weight((3, 3, 6, 12), scale=np.linspace(0.01, 0.02, 12), axis=3))
        y = relax.op.nn.conv2d(emit(dequantize(x)), kernel, padding=(0, 0, 1, 1), strides=(2, 2),
                               data_layout="NHWC", kernel_layout="HWIO")  # fmt: skip
        y = emit(quantize(emit(relax.op.nn.relu6(emit(y))), 0.03, 0))
        return relax.op.nn.max_pool2d(y, (2, 2), layout="NHWC")

    mod = module([((1, 8, 8, 6), "uint8")], build)
    data = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 6)).astype("uint8")
    actual = selector.compile(mod, policy="int8", threads=1).run(data)[0]
    assert np.abs(actual.astype(int) - run(mod, data)[0]).max() <= 1


def test_unknown_operators_still_compile():
    def build(emit, x):
        y = emit(relax.op.nn.conv2d(emit(dequantize(x)), emit(weight((4, 8, 3, 3)))))
        return relax.op.nn.softmax(emit(relax.op.nn.instance_norm(
            y, relax.const(np.ones(4, "float32")), relax.const(np.zeros(4, "float32")), channel_axis=1, axes=[2, 3]
        )), axis=1)  # fmt: skip

    mod = module([((1, 8, 6, 6), "uint8")], build)
    data = np.random.default_rng(0).integers(0, 256, (1, 8, 6, 6)).astype("uint8")
    actual = selector.compile(mod, threads=1).run(data)[0]
    np.testing.assert_allclose(actual, run(mod, data)[0], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def compiled():
    return selector.compile(qdq_conv_model(), policy="int16", threads=1)


def test_saved_library_runs_and_remembers(compiled, tmp_path, capfd):
    path = tmp_path / "net.so"
    compiled.save(path)
    assert "Scope" not in capfd.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.so"]
    loaded = selector.load_compiled(path)
    data = random_inputs(qdq_conv_model())["x"]
    np.testing.assert_array_equal(loaded.run(data)[0], compiled.run(data)[0])
    assert loaded.decisions == compiled.decisions
    assert (loaded.inputs, loaded.threads) == (compiled.inputs, 1)
    assert [(spec.name, spec.shape, spec.dtype) for spec in loaded.inputs] == [("x", (1, 8, 7, 6), "uint8")]


def test_stored_bytes_are_those_of_the_constants():
    model = qdq_block_model()
    stored = selector.stored_bytes(model, threads=1)
    decisions = selector.explain(model, threads=1)
    assert list(stored) == [decision.layer for decision in decisions]
    for decision in decisions:
        sizes = stored[decision.layer]
        assert decision.workload.weight_bytes() <= sizes["int8"] <= sizes["int16"]
    packed = selector.stored_bytes(model, threads=1, lazy_weights=False)
    assert all(packed[layer][name] >= size for layer, sizes in stored.items() for name, size in sizes.items())


def test_layers_left_to_tvm_store_nothing_of_ours():
    assert selector.stored_bytes(qdq_conv_model(quantize_output=False, in_channels=8)).keys() == {"conv"}
    model = module([((1, 8, 6, 6), "float32")], lambda emit, x: relax.op.nn.conv2d(x, emit(weight((4, 8, 3, 3)))))
    assert selector.stored_bytes(model) == {}


def test_a_library_of_at_most_some_bytes(tmp_path):
    model = qdq_conv_model(in_channels=64, out_channels=64, height=12, width=12)
    free = selector.explain(model, policy="int16", threads=1, lazy_weights=False)
    most = 128 * 1024 + 10 * 1024 + 64 * 64 * 9 * 3  # int16 takes more
    compiled = selector.compile(model, policy="int16", threads=1, lazy_weights=False, max_bytes=most)
    assert [(item.lowering, item.source) for item in free] == [("int16", "int16")]
    assert [(item.lowering, item.source) for item in compiled.decisions] == [("int8", "size")]
    compiled.save(tmp_path / "net.so")
    assert (tmp_path / "net.so").stat().st_size <= most
    with pytest.raises(ValueError, match=r"cannot be as small as 0\.10 MB: it takes at least"):
        selector.compile(model, threads=1, max_bytes=100_000)


def test_a_library_that_turns_out_larger_is_not_written(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "_max_bytes", 1000)
    with pytest.raises(ValueError, match=r"the library is 0\.\d\d MB, more than 0\.00 MB"):
        compiled.save(tmp_path / "net.so")
    assert list(tmp_path.iterdir()) == []


def test_executable_is_an_ordinary_one(compiled):
    vm = relax.VirtualMachine(compiled.executable, tvm.cpu())
    data = random_inputs(qdq_conv_model())["x"]
    np.testing.assert_array_equal(vm["main"](tvm.runtime.tensor(data)).numpy(), compiled.run(data)[0])


def test_unwritable_output_leaves_nothing(compiled, tmp_path):
    with pytest.raises(FileNotFoundError):
        compiled.save(tmp_path / "missing" / "net.so")
    (tmp_path / "net.so").mkdir()
    with pytest.raises(IsADirectoryError):
        compiled.save(tmp_path / "net.so")
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.so"]


@pytest.mark.parametrize("inputs", [(), (np.zeros((1, 8, 7, 6), "float32"),), (np.zeros((1, 8, 7, 5), "uint8"),)])
def test_wrong_inputs_are_named(compiled, inputs):
    with pytest.raises(ValueError, match=r"takes 1 input, got|is uint8"):
        compiled.run(*inputs)


def test_what_is_no_compiled_network(tmp_path):
    with pytest.raises(FileNotFoundError):
        selector.load_compiled(tmp_path / "net.so")
    (tmp_path / "net.so").write_bytes(b"not a library")
    with pytest.raises(selector.ModelError, match="is not a network compiled by Selector"):
        selector.load_compiled(tmp_path / "net.so")


def test_bad_arguments():
    model = qdq_conv_model()
    with pytest.raises(ValueError, match="threads must be at least 1"):
        selector.compile(model, threads=0)
    with pytest.raises(selector.UnknownPolicy):
        selector.compile(model, policy="best")
    with pytest.raises(selector.UnknownTarget):
        selector.compile(model, target="no-such-cpu")


def test_compiling_imports_no_training_package():
    script = """
import sys, selector
assert "onnx" not in sys.modules
from tests.models import qdq_dense_model
selector.compile(qdq_dense_model(), threads=1)
print(sorted(set(sys.modules) & {"mlflow", "sklearn", "pandas", "matplotlib"}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
