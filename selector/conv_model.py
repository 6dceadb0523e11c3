"""One quantized convolution as an ONNX QDQ model, for runtimes that it is compared with."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from selector.workload import ConvConstants, ConvWorkload

_OPSET, _IR_VERSION = 17, 9
_ELEMENT = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "float32": TensorProto.FLOAT}


def conv_model(workload: ConvWorkload, constants: ConvConstants, *, channels_last: bool) -> onnx.ModelProto:
    """``x`` quantized -> ``y``: DequantizeLinear, Conv, QuantizeLinear with the multiplier as scale of the weights.

    Tensors are (N, C, H, W), or (N, H, W, C) between two transposes with ``channels_last``.  The output is float32
    where the workload has none of 8 bits.  Bounds of the output are left out; a float offset is rounded into the bias.
    """
    work, requantize = workload, constants.requantize
    channels = work.out_channels
    scale = np.ones(channels, np.float32) if requantize is None else requantize.multiplier.astype(np.float32)
    bias = np.zeros(channels, np.int64) if constants.bias is None else constants.bias.astype(np.int64)
    if requantize is not None and requantize.offset is not None:
        bias = bias + np.rint(requantize.offset / scale).astype(np.int64)
    weight_type = constants.weight.dtype
    initializers = {
        "one": np.float32(1),
        "x_zero": np.asarray(work.data_zero_point, work.data_dtype),
        "w": np.ascontiguousarray(constants.weight.transpose(0, 3, 1, 2)),
        "scale": scale,
        "w_zero": constants.weight_zero_point.astype(weight_type),
        "b": bias.clip(-(1 << 31), (1 << 31) - 1).astype(np.int32),
        "b_zero": np.zeros(channels, np.int32),
    }
    conv = helper.make_node(
        "Conv",
        ["real_x", "real_w", "real_b"],
        ["real_y"],
        kernel_shape=[work.kernel_height, work.kernel_width],
        strides=list(work.stride),
        pads=list(work.padding),
        dilations=list(work.dilation),
        group=work.groups,
    )
    nodes = [
        helper.make_node("DequantizeLinear", ["nchw_x", "one", "x_zero"], ["real_x"]),
        helper.make_node("DequantizeLinear", ["w", "scale", "w_zero"], ["real_w"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "scale", "b_zero"], ["real_b"], axis=0),
        conv,
    ]
    quantizes = requantize is not None and work.out_dtype in ("uint8", "int8")
    if requantize is not None and quantizes:
        initializers["y_zero"] = np.asarray(requantize.zero_point, work.out_dtype)
        nodes.append(helper.make_node("QuantizeLinear", ["real_y", "one", "y_zero"], ["nchw_y"]))
    nodes[-1].output[0] = "nchw_y"
    if channels_last:
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["nchw_x"], perm=[0, 3, 1, 2]))
        nodes.append(helper.make_node("Transpose", ["nchw_y"], ["y"], perm=[0, 2, 3, 1]))
    else:
        nodes[0].input[0], nodes[-1].output[0] = "x", "y"
    in_shape = (work.batch, work.in_height, work.in_width, work.in_channels)
    out_shape = (work.batch, work.out_height, work.out_width, channels)
    if not channels_last:
        in_shape, out_shape = ((n, c, h, w) for n, h, w, c in (in_shape, out_shape))
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("x", _ELEMENT[work.data_dtype], in_shape)],
        [helper.make_tensor_value_info("y", _ELEMENT[work.out_dtype if quantizes else "float32"], out_shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    return model
