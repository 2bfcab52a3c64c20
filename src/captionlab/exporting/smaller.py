"""Store an ONNX graph's weights in fewer bits. It computes in 32 bits all the same: runtimes expand them as they load.

Knows ONNX graphs only.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

_FEWEST = 1000  # elements; smaller tensors stay as they are


def store_in_16_bits(graph: bytes) -> bytes:
    """Weights as half-precision floats."""
    model = onnx.load_from_string(graph)
    nodes = []
    for weight in _take_weights(model, dimensions=1):
        stored, values = f"{weight.name}_16", numpy_helper.to_array(weight)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), stored))
        nodes.append(helper.make_node("Cast", [stored], [weight.name], to=TensorProto.FLOAT))
    return _with(model, nodes)


def store_in_8_bits(graph: bytes) -> bytes:
    """Matrices as whole numbers from -127 to 127, with a scale for each output of a product or row of a table."""
    model = onnx.load_from_string(graph)
    right_factors = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    nodes = []
    for weight in _take_weights(model, dimensions=2):
        values = numpy_helper.to_array(weight)
        # The others are tables (words, channels) and an LSTM's matrices (1, outputs, inputs).
        axis = values.ndim - (1 if weight.name in right_factors else 2)
        highest = np.abs(values).max(tuple(i for i in range(values.ndim) if i != axis), keepdims=True)
        scale = np.where(highest == 0, 1, highest / 127).astype(np.float32)
        stored, scales = f"{weight.name}_8", f"{weight.name}_scale"
        model.graph.initializer.append(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), stored))
        model.graph.initializer.append(numpy_helper.from_array(scale.ravel(), scales))
        nodes.append(helper.make_node("DequantizeLinear", [stored, scales], [weight.name], axis=axis))
    return _with(model, nodes)


def _take_weights(model: onnx.ModelProto, dimensions: int) -> Iterator[TensorProto]:
    """Remove the large float tensors with this many dimensions longer than 1 or more from the graph, one by one."""
    for tensor in list(model.graph.initializer):
        large = sum(size > 1 for size in tensor.dims) >= dimensions and np.prod(tensor.dims) >= _FEWEST
        if tensor.data_type == TensorProto.FLOAT and large:
            model.graph.initializer.remove(tensor)
            yield tensor


def _with(model: onnx.ModelProto, first: list[NodeProto]) -> bytes:
    """The model with nodes that come before its own."""
    nodes = [*first, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()
