"""The network as an ONNX graph, batch norm folded into the convolutions, as an exporter for inference writes it."""

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from benchmarks.network import convolutions
from tinymnv1 import MobileNetV1
from tinymnv1.ops.window import Array

OPSET, IR_VERSION = 17, 9


def onnx_model(model: MobileNetV1, batch: int, resolution: int) -> ModelProto:
    """A graph from "images" (batch, 3, resolution, resolution) to "logits" (batch, classes).

        gamma (conv(x, w) - mean) / sqrt(var + eps) + beta  =  conv(x, w s) + beta - mean s,    s = gamma / sqrt(...)

    The sizes are fixed: a runtime may then choose its kernels beforehand.
    """
    nodes, constants = [], []

    def constant(name: str, array: Array) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    low, high = constant("low", np.array(0)), constant("high", np.array(6))
    x = "images"
    for c in convolutions(model):
        scale = c.gamma / np.sqrt(c.var + model.config.bn_eps)  # (Cout,)
        inputs = [
            x,
            constant(f"{c.name}.weight", c.weight * scale.reshape(-1, 1, 1, 1)),
            constant(f"{c.name}.bias", c.beta - c.mean * scale),
        ]
        kernel = list(c.weight.shape[2:])
        x = node(
            "Conv",
            inputs,
            f"{c.name}.conv",
            kernel_shape=kernel,
            strides=[c.stride] * 2,
            pads=[c.padding] * 4,
            group=c.groups,
        )
        x = node("Clip", [x, low, high], f"{c.name}.relu6")
    x = node("Flatten", [node("GlobalAveragePool", [x], "pool")], "features")
    classifier = model.classifier.params
    weight, bias = (constant(f"classifier.{key}", classifier[key].data) for key in ("weight", "bias"))
    node("Gemm", [x, weight, bias], "logits")

    def value(name: str, *shape: int) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "MobileNetV1",
        [value("images", batch, model.config.in_channels, resolution, resolution)],
        [value("logits", batch, model.config.num_classes)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
