"""The one table of features.  Adding one is adding a row; models trained before no longer load, and say so.

A formula is text, and the text is what is evaluated: what is documented and what is computed are the same.  It may use

    w   the workload                    (selector.workload.ConvWorkload)
    t   the target                      (selector.target.TargetProfile)
    a   the int8 lowering               (selector.features.quantities.Side)
    b   the int16 lowering
    log2

Sizes are in log2, since costs multiply.  What a CPU is enters through its plans, times, shares and ratios alone: sizes
of caches and instruction sets would tell the training machines apart, and say nothing about others.
"""

from __future__ import annotations

from dataclasses import dataclass

# Raise it when a row's values change: ``tests/golden`` holds some and says when.  Models of another number do not load.
FEATURE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Feature:
    """One column."""

    name: str
    unit: str
    formula: str  # a Python expression, see above
    reason: str  # why it may decide
    says: str  # a value in words, for ``str.format`` with the value, logarithms undone
    says_zero: str = ""  # the same for 0, before logarithms are undone; empty: as ``says`` has it
    bounded: bool = False  # whether far outside of its trained range the trees are not followed

    def in_words(self, value: float) -> str:
        """What a value of this column says of a layer."""
        if not value and self.says_zero:
            return self.says_zero
        return self.says.format(2**value if self.unit.startswith("log2") else value)


_SHAPE = (
    Feature(
        "macs",
        "log2",
        "log2(w.macs())",
        "overheads of a call matter in small layers only",
        "the layer has {:,.0f} multiply-accumulates",
        bounded=True,
    ),
    Feature(
        "group_in_channels",
        "log2",
        "log2(w.group_in_channels)",
        "short runs fill no step of the reduction",
        "an output sees {:.0f} input channels",
        says_zero="an output sees one input channel",
        bounded=True,
    ),
    Feature(
        "out_width",
        "log2",
        "log2(w.out_width)",
        "narrow rows are tiled across rows",
        "a row of the output has {:.0f} pixels",
        says_zero="a row of the output has one pixel",
        bounded=True,
    ),
    Feature(
        "term2",
        "0 or 1",
        "w.term2",
        "int8 sums the data under every output pixel",
        "int8 sums the data under every output pixel",
        says_zero="int8 needs no sums of the data",
    ),
    Feature(
        "threads",
        "log2",
        "log2(w.threads)",
        "memory and the last cache are shared",
        "{:.0f} threads share memory and the last cache",
        says_zero="one thread has memory and the last cache to itself",
    ),
)

_INT8 = (
    Feature(
        "int8_bound",
        "log2",
        "log2(a.memory / (a.compute + a.prepare + a.term2))",
        "above 0: memory-bound",
        "moving data takes int8 {:.2f} times as long as computing",
    ),
    Feature(
        "int8_prepare",
        "share",
        "a.prepare / a.total",
        "converting, padding, interleaving",
        "int8 spends {:.0%} of its time on bringing data into the form that it needs",
    ),
    Feature(
        "int8_loss",
        "log2",
        "log2(a.compute / a.products)",
        "loads and epilogue beside the products",
        "with loads and epilogue, int8's multiplications take {:.2f} times as long as alone",
    ),
    Feature(
        "int8_panel_in_l1",
        "log2",
        "log2(a.plan.panel_bytes / t.l1_bytes)",
        "weights of one tile",
        "int8's weights of a tile fill {:.0%} of the L1 cache",
    ),
    Feature(
        "int8_band_in_l2",
        "log2",
        "log2(a.plan.band_bytes / t.l2_bytes)",
        "data of one task",
        "int8's data of a task fill {:.0%} of the L2 cache",
    ),
    Feature(
        "int8_weights_in_l2",
        "log2",
        "log2(a.plan.weight_bytes / t.l2_bytes)",
        "streamed once a task",
        "int8's weights fill {:.0%} of the L2 cache",
    ),
    Feature(
        "int8_scratch",
        "log2",
        "log2(1 + a.plan.scratch_bytes / w.data_bytes())",
        "bytes written before use",
        "int8's input and scratch memory are {:.2f} times the input",
        says_zero="int8 needs no scratch memory",
    ),
    Feature(
        "int8_tile_pixels",
        "count",
        "a.plan.pixels",
        "how often a weight is used once loaded",
        "int8 uses a loaded weight for {:.0f} pixels",
    ),
    Feature(
        "int8_term2",
        "share",
        "a.term2 / a.total",
        "what the correction costs",
        "int8 spends {:.0%} of its time on sums of the data",
        says_zero="int8 spends no time on sums of the data",
    ),
)

_INT16 = (
    Feature(
        "int16_bound",
        "log2",
        "log2(b.memory / (b.compute + b.prepare))",
        "above 0: memory-bound",
        "moving data takes int16 {:.2f} times as long as computing",
    ),
    Feature(
        "int16_intensity",
        "log2 of MAC/byte",
        "log2(w.macs() / b.traffic)",
        "what bounds it, whatever the model says",
        "int16 does {:.1f} multiply-accumulates with each byte that it moves",
    ),
    Feature(
        "int16_prepare",
        "share",
        "b.prepare / b.total",
        "converting, padding, interleaving",
        "int16 spends {:.0%} of its time on bringing data into the form that it needs",
    ),
    Feature(
        "int16_loss",
        "log2",
        "log2(b.compute / b.products)",
        "loads, epilogue and transforms beside the products",
        "with loads, epilogue and transforms, int16's multiplications take {:.2f} times as long as alone",
    ),
    Feature(
        "int16_waste",
        "log2",
        "log2(b.plan.macs / w.macs())",
        "padding of steps and vectors; below 0: Winograd",
        "int16 does {:.2f} times the multiplications that the layer needs",
    ),
    Feature(
        "int16_in_l3",
        "log2",
        "log2(b.working_set / (t.l3_bytes or t.l2_bytes))",
        "above 0: comes from memory",
        "what int16 touches fills {:.0%} of the last cache",
    ),
    Feature(
        "int16_band_in_l2",
        "log2",
        "log2(b.plan.band_bytes / t.l2_bytes)",
        "data of one task",
        "int16's data of a task fill {:.0%} of the L2 cache",
    ),
    Feature(
        "int16_tile_pixels",
        "count",
        "b.plan.pixels",
        "how often a weight is used once loaded",
        "int16 uses a loaded weight for {:.0f} pixels",
    ),
)


def _ratio(name: str, formula: str, reason: str, says: str) -> Feature:
    ratio = f"log2(({formula.replace('@', 'b')}) / ({formula.replace('@', 'a')}))"
    return Feature(f"ratio_{name}", "log2", ratio, reason, says)


_RATIOS = (  # of int16 to int8, as the prediction itself
    _ratio("time", "@.total", "the roofline's own answer", "by the roofline int16 takes {:.2f} times as long"),
    _ratio(
        "compute",
        "@.compute + @.prepare + @.term2",
        "its answer with everything in L1",
        "with everything in the L1 cache int16 takes {:.2f} times as long",
    ),
    _ratio(
        "kernel",
        "@.compute",
        "templates apart from what comes before and after",
        "int16's inner loops take {:.2f} times as long",
    ),
    _ratio(
        "memory",
        "@.memory",
        "its answer with unlimited instructions",
        "moving data takes int16 {:.2f} times as long",
    ),
    _ratio("rate", "@.rate", "peaks of the two instructions", "int16's instruction is {:.2f} times as fast"),
    _ratio("loop_rate", "@.loop_rate", "the same with loads", "int16's instruction and loads are {:.2f} times as fast"),
    _ratio(
        "macs",
        "@.plan.macs",
        "products performed: Winograd and padding",
        "int16 does {:.2f} times the multiplications",
    ),
    _ratio("products", "@.products", "the same in time", "int16's multiplications alone take {:.2f} times as long"),
    _ratio("traffic", "@.traffic", "bytes moved", "int16 moves {:.2f} times the bytes"),
    _ratio("working_set", "@.working_set", "bytes touched", "int16 touches {:.2f} times the bytes"),
    _ratio("weights", "@.plan.weight_bytes", "bytes of packed weights", "int16's weights take {:.2f} times the bytes"),
)

TABLE: tuple[Feature, ...] = (*_SHAPE, *_INT8, *_INT16, *_RATIOS)
