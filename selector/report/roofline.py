"""The roofline plot: every convolution under the peaks of the instructions and the memory it ran on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from selector.kernel_bench import KernelResult

_COPY_BYTES = 64 << 20  # larger than any cache
_MARKERS = {"1x1": "o", "dense": "s", "depthwise": "^", "grouped": "D", "first": "*"}


class PlotUnavailable(ValueError):
    """matplotlib is not installed; the message says how to get it."""


def require_matplotlib() -> None:
    """Raises PlotUnavailable."""
    try:
        import matplotlib as _  # noqa: F401
    except ImportError:
        raise PlotUnavailable("a plot needs matplotlib: pip install 'tvm-selector[bench]'") from None


def memory_bandwidth() -> float:
    """Bytes a second that one core reads and writes when it copies memory: best of a few copies."""
    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.zeros_like(source)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return 2 * _COPY_BYTES / best


def plot_roofline(results: Sequence[KernelResult], path: Path) -> None:
    """Draw rate over arithmetic intensity of the better lowering of every convolution; the suffix says the format.

    Winograd is drawn at its effective rate, and so may lie above the peak.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    intensity = [_intensity(result) for result in results]
    span = np.geomspace(min(intensity) / 2, max(intensity) * 2, 50)
    memory = memory_bandwidth() / 1e9
    axes.plot(span, span * memory, color="0.4", linestyle=":", label=f"copying memory, {memory:.1f} GB/s")
    for color, (row, peak) in enumerate(sorted(_peaks(results).items(), key=lambda item: -item[1])):
        axes.axhline(peak, color=f"C{color}", linewidth=1, label=f"{row}, {peak:.0f} GMAC/s")
    for kind, marker in _MARKERS.items():
        for lowering, face in (("int8", "white"), ("int16", "black")):
            chosen = [
                (x, result.lowering(lowering).gmacs)
                for x, result in zip(intensity, results, strict=True)
                if result.case.workload.kind == kind and result.better == lowering
            ]
            if chosen:
                x, y = zip(*chosen, strict=True)
                label = f"{kind}, {lowering} faster"
                axes.scatter(x, y, marker=marker, facecolor=face, edgecolor="black", s=40, label=label, zorder=3)
    axes.set(xscale="log", yscale="log", xlabel="multiply-accumulates per byte", ylabel="GMAC/s")
    rates = [result.lowering(result.better).gmacs for result in results]
    axes.set_ylim(min(rates) / 1.5, max([*rates, *_peaks(results).values()]) * 1.5)
    axes.legend(fontsize="small", loc="lower right")
    figure.savefig(path, dpi=150)


def _intensity(result: KernelResult) -> float:
    """Multiply-accumulates per byte of input, weights and output."""
    work = result.case.workload
    return work.macs() / (work.data_bytes() + work.weight_bytes() + work.out_bytes())


def _peaks(results: Sequence[KernelResult]) -> dict[str, float]:
    """GMAC/s of every instruction in use, as measured beside the kernels."""
    rates: dict[str, list[float]] = {}
    for result in results:
        for item in result.lowerings:
            rates.setdefault(item.row, []).append(item.gmacs / item.peak_fraction)
    return {row: median(values) for row, values in rates.items()}
