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
    bounded: bool = False  # whether far outside of its trained range the trees are not followed


_SHAPE = (
    Feature("macs", "log2", "log2(w.macs())", "overheads of a call matter in small layers only", bounded=True),
    Feature(
        "group_in_channels",
        "log2",
        "log2(w.group_in_channels)",
        "short runs fill no step of the reduction",
        bounded=True,
    ),
    Feature("out_width", "log2", "log2(w.out_width)", "narrow rows are tiled across rows", bounded=True),
    Feature("term2", "0 or 1", "w.term2", "int8 sums the data under every output pixel"),
    Feature("threads", "log2", "log2(w.threads)", "memory and the last cache are shared"),
)

_INT8 = (
    Feature("int8_bound", "log2", "log2(a.memory / (a.compute + a.prepare + a.term2))", "above 0: memory-bound"),
    Feature("int8_prepare", "share", "a.prepare / a.total", "converting, padding, interleaving"),
    Feature("int8_loss", "log2", "log2(a.compute / a.products)", "loads and epilogue beside the products"),
    Feature("int8_panel_in_l1", "log2", "log2(a.plan.panel_bytes / t.l1_bytes)", "weights of one tile"),
    Feature("int8_band_in_l2", "log2", "log2(a.plan.band_bytes / t.l2_bytes)", "data of one task"),
    Feature("int8_weights_in_l2", "log2", "log2(a.plan.weight_bytes / t.l2_bytes)", "streamed once a task"),
    Feature("int8_scratch", "log2", "log2(1 + a.plan.scratch_bytes / w.data_bytes())", "bytes written before use"),
    Feature("int8_tile_pixels", "count", "a.plan.pixels", "how often a weight is used once loaded"),
    Feature("int8_term2", "share", "a.term2 / a.total", "what the correction costs"),
)

_INT16 = (
    Feature("int16_bound", "log2", "log2(b.memory / (b.compute + b.prepare))", "above 0: memory-bound"),
    Feature(
        "int16_intensity", "log2 of MAC/byte", "log2(w.macs() / b.traffic)", "what bounds it, whatever the model says"
    ),
    Feature("int16_prepare", "share", "b.prepare / b.total", "converting, padding, interleaving"),
    Feature("int16_loss", "log2", "log2(b.compute / b.products)", "loads, epilogue and transforms beside the products"),
    Feature("int16_waste", "log2", "log2(b.plan.macs / w.macs())", "padding of steps and vectors; below 0: Winograd"),
    Feature("int16_in_l3", "log2", "log2(b.working_set / (t.l3_bytes or t.l2_bytes))", "above 0: comes from memory"),
    Feature("int16_band_in_l2", "log2", "log2(b.plan.band_bytes / t.l2_bytes)", "data of one task"),
    Feature("int16_tile_pixels", "count", "b.plan.pixels", "how often a weight is used once loaded"),
)


def _ratio(name: str, formula: str, reason: str) -> Feature:
    return Feature(
        f"ratio_{name}", "log2", f"log2(({formula.replace('@', 'b')}) / ({formula.replace('@', 'a')}))", reason
    )


_RATIOS = (  # of int16 to int8, as the prediction itself
    _ratio("time", "@.total", "the roofline's own answer"),
    _ratio("compute", "@.compute + @.prepare + @.term2", "its answer with everything in L1"),
    _ratio("kernel", "@.compute", "templates apart from what comes before and after"),
    _ratio("memory", "@.memory", "its answer with unlimited instructions"),
    _ratio("rate", "@.rate", "peaks of the two instructions"),
    _ratio("loop_rate", "@.loop_rate", "the same with loads"),
    _ratio("macs", "@.plan.macs", "products performed: Winograd and padding"),
    _ratio("products", "@.products", "the same in time"),
    _ratio("traffic", "@.traffic", "bytes moved"),
    _ratio("working_set", "@.working_set", "bytes touched"),
    _ratio("weights", "@.plan.weight_bytes", "bytes of packed weights"),
)

TABLE: tuple[Feature, ...] = (*_SHAPE, *_INT8, *_INT16, *_RATIOS)
