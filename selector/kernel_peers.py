"""Who else can compute one convolution: what the kernels are timed against."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from selector.conv_model import conv_model
from selector.kernel_cases import KernelCase
from selector.peers import PeerUnavailable
from selector.target import TargetLike


@dataclass(frozen=True, slots=True)
class PeerKernel:
    """One convolution in another runtime."""

    call: Callable[[], object]  # computes it once
    output: np.ndarray | None  # (N, OH, OW, O) as the workload wants it; None: the peer computes less than that


@dataclass(frozen=True, slots=True)
class KernelPeer:
    """A runtime; ``kernel`` takes a convolution, its input (N, H, W, C) and the target.  Raises PeerUnavailable."""

    name: str
    kernel: Callable[[KernelCase, np.ndarray, TargetLike], PeerKernel]


def onnxruntime_kernel(case: KernelCase, data: np.ndarray, target: TargetLike = "native") -> PeerKernel:
    """ONNX Runtime in the layout that suits it better; ``target`` is always this machine."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise PeerUnavailable("onnxruntime is not installed: pip install 'tvm-selector[bench]'") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = case.workload.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    choices: list[PeerKernel] = []
    for channels_last in (True, False):
        model = conv_model(case.workload, case.constants, channels_last=channels_last)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feed = data if channels_last else np.ascontiguousarray(data.transpose(0, 3, 1, 2))
        out = np.asarray(session.run(None, {"x": feed})[0])
        binding = session.io_binding()  # nothing is allocated or copied in the timed calls
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(feed))
        binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(out.copy()))
        run = functools.partial(session.run_with_iobinding, binding)
        choices.append(PeerKernel(run, out if channels_last else out.transpose(0, 2, 3, 1)))
    return fastest(choices)


def fastest(kernels: list[PeerKernel], calls: int = 7) -> PeerKernel:
    """The kernel with the shortest of a few calls."""

    def seconds(kernel: PeerKernel) -> float:
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            kernel.call()
            times.append(time.perf_counter() - start)
        return min(times)

    return min(kernels, key=seconds)


ONNXRUNTIME = KernelPeer("onnxruntime", onnxruntime_kernel)
