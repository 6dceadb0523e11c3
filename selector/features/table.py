"""The one table of features.  Adding one is adding a row; models trained before no longer load, and say so.

A formula is text, and the text is what is evaluated: what is documented, what is computed and what the version hashes
are the same.  It may use

    w   the workload                    (selector.workload.ConvWorkload)
    t   the target                      (selector.target.TargetProfile)
    a   the int8 lowering               (selector.features.quantities.Side)
    b   the int16 lowering
    pixels, reduction                   output pixels of an image, products of one accumulator
    log2, weight_class                  (selector.features.quantities.weight_class)

Sizes are in log2, since costs multiply.  Raw sizes and instruction sets tell training machines apart; shares and ratios
carry over to machines that training has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Feature:
    """One column."""

    name: str
    unit: str
    formula: str  # a Python expression, see above
    reason: str  # why it may decide


_SHAPE = (
    Feature("macs", "log2", "log2(w.macs())", "overheads of a call matter in small layers only"),
    Feature("batch", "log2", "log2(w.batch)", "weights are reused over images"),
    Feature("in_channels", "log2", "log2(w.in_channels)", "the conversion costs as much per channel whatever follows"),
    Feature("out_channels", "log2", "log2(w.out_channels)", "how often converted data is used"),
    Feature("group_in_channels", "log2", "log2(w.group_in_channels)", "short runs fill no step of the reduction"),
    Feature("group_out_channels", "log2", "log2(w.group_out_channels)", "few channels fill no vector"),
    Feature("reduction", "log2", "log2(reduction)", "products that share one epilogue"),
    Feature("out_pixels", "log2", "log2(pixels)", "how often weights are used"),
    Feature("out_width", "log2", "log2(w.out_width)", "narrow rows are tiled across rows"),
    Feature("kernel_area", "taps", "w.kernel_height * w.kernel_width", "how often an input pixel is used"),
    Feature("kernel_height", "taps", "w.kernel_height", "depthwise kernels multiply rows together"),
    Feature("stride_height", "pixels", "w.stride[0]", "rows that outputs share"),
    Feature("stride_width", "pixels", "w.stride[1]", "pixels that outputs share"),
    Feature("dilated", "0 or 1", "max(w.dilation) > 1", "a dilated row is no contiguous run"),
    Feature(
        "padding",
        "share",
        "1 - w.in_height * w.in_width / ((w.in_height + w.padding[0] + w.padding[2])"
        " * (w.in_width + w.padding[1] + w.padding[3]))",
        "padding forces a copy of the data",
    ),
    Feature("depthwise", "0 or 1", "w.kind == 'depthwise'", "another template"),
    Feature("grouped", "0 or 1", "w.kind == 'grouped'", "vectors end with the group"),
    Feature("pointwise", "0 or 1", "w.kernel_height == w.kernel_width == 1", "each converted value is used but once"),
    Feature("data_signed", "0 or 1", "w.data_dtype == 'int8'", "pmaddubsw and vpdpbusd want unsigned data"),
    Feature("weight_unsigned", "0 or 1", "w.weight_dtype == 'uint8'", "bytes that may not fit int8 without Term2"),
    Feature("data_zero_point", "0 or 1", "w.data_zero_point != 0", "int16 subtracts it"),
    Feature("weight_class", "0 to 3", "weight_class(w)", "instructions that are proven exact"),
    Feature("term2", "0 or 1", "w.term2", "int8 sums the data under every output pixel"),
    Feature("out_bytes", "bytes", "w.out_bytes() // (w.batch * pixels * w.out_channels)", "width of the stores"),
    Feature("threads", "log2", "log2(w.threads)", "memory and the last cache are shared"),
)

_TARGET = (
    Feature("vector_bits", "log2", "log2(t.vector_bits)", "lanes of whatever is not a dot product"),
    Feature("registers", "count", "t.vector_registers", "size of the register tile"),
    Feature("cores", "log2", "log2(t.cores)", "share of the last cache and of memory"),
    Feature("l1", "log2 of bytes", "log2(t.l1_bytes)", "room for weights in use"),
    Feature("l2", "log2 of bytes", "log2(t.l2_bytes)", "room for a band of converted data"),
    Feature("l3", "log2 of bytes", "log2(t.l3_bytes + 1)", "room for weights and neighbours' data"),
    Feature("ssse3", "0 or 1", "t.has('ssse3')", "pmaddubsw"),
    Feature("avx2", "0 or 1", "t.has('avx2')", "256-bit integers"),
    Feature("avx512bw", "0 or 1", "t.has('avx512bw')", "512-bit integers, without psign"),
    Feature("vnni", "0 or 1", "t.has('avx512vnni') or t.has('avxvnni')", "8-bit products of four in one instruction"),
    Feature("dotprod", "0 or 1", "t.has('dotprod')", "the same on ARM"),
    Feature("i8mm", "0 or 1", "t.has('i8mm')", "the same for unsigned by signed, and matrices"),
    Feature("int8_lanes", "count", "a.lanes", "channels of a vector"),
    Feature("int8_step", "count", "a.step", "elements of the reduction a step"),
    Feature("int8_macs_per_uop", "count", "a.plan.row.rate()", "multiply-accumulates of one vector instruction"),
    Feature("int8_data_bytes", "bytes", "2 if a.plan.row.data_dtype == 'int16' else 1", "widening rows read int16"),
    Feature("int16_lanes", "count", "b.lanes", "channels of a vector"),
    Feature("int16_step", "count", "b.step", "elements of the reduction a step"),
    Feature("int16_macs_per_uop", "count", "b.plan.row.rate()", "multiply-accumulates of one vector instruction"),
    Feature(
        "int8_balance", "log2 of MAC/byte", "log2(a.rate / memory)", "intensity from which int8 computes at its peak"
    ),
    Feature("cache_balance", "log2", "log2(l2 / memory)", "what falling out of L2 costs"),
)


def _of_lowering(name: str, x: str) -> tuple[Feature, ...]:
    """The features that each lowering has; ``x`` is its variable."""

    def feature(what: str, unit: str, formula: str, reason: str) -> Feature:
        return Feature(f"{name}_{what}", unit, formula.replace("@", x), reason)

    return (
        feature("time", "log2 of µs", "log2(@.total * 1e6)", "the roofline: the longer of computing and moving"),
        feature("bound", "log2", "log2(@.memory / (@.compute + @.prepare + @.term2))", "above 0: memory-bound"),
        feature(
            "intensity", "log2 of MAC/byte", "log2(w.macs() / @.traffic)", "what bounds it, whatever the model says"
        ),
        feature("prepare", "share", "@.prepare / @.total", "converting, padding, interleaving"),
        feature("loss", "log2", "log2(@.compute / @.products)", "loads, epilogue and transforms beside the products"),
        feature("waste", "log2", "log2(@.plan.macs / w.macs())", "padding of steps and vectors; below 0: Winograd"),
        feature("in_l1", "log2", "log2(@.held / t.l1_bytes)", "above 0: does not stay there"),
        feature("in_l2", "log2", "log2(@.held / t.l2_bytes)", "above 0: does not stay there"),
        feature("in_l3", "log2", "log2(@.working_set / (t.l3_bytes or t.l2_bytes))", "above 0: comes from memory"),
        feature("panel_in_l1", "log2", "log2(@.plan.panel_bytes / t.l1_bytes)", "weights of one tile"),
        feature("band_in_l2", "log2", "log2(@.plan.band_bytes / t.l2_bytes)", "data of one task"),
        feature("weights_in_l2", "log2", "log2(@.plan.weight_bytes / t.l2_bytes)", "streamed once a task"),
        feature("weight_passes", "log2", "log2(@.plan.weight_passes)", "how often they are"),
        feature("scratch", "log2", "log2(1 + @.plan.scratch_bytes / w.data_bytes())", "bytes written before use"),
        feature("tile_pixels", "count", "@.plan.pixels", "how often a weight is used once loaded"),
        feature("tile_vectors", "count", "@.plan.vectors", "how often a pixel is used once loaded"),
        feature(
            "edge", "share", "1 - pixels / (-(-pixels // @.plan.pixels) * @.plan.pixels)", "the last tile is smaller"
        ),
        feature("imbalance", "log2", "log2(@.share * w.threads)", "tasks do not divide by the threads"),
    )


_TERM2 = (
    Feature("int8_term2", "share", "a.term2 / a.total", "what the correction costs"),
    Feature("winograd", "ratio", "b.plan.saving", "times fewer multiplications; 1: direct"),
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
    _ratio("passes", "@.plan.weight_passes", "how often they are streamed"),
    _ratio("share", "@.share", "balance of the threads"),
)

TABLE: tuple[Feature, ...] = (
    *_SHAPE,
    *_TARGET,
    *_of_lowering("int8", "a"),
    *_of_lowering("int16", "b"),
    *_TERM2,
    *_RATIOS,
)
