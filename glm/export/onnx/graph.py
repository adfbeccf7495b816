"""An ONNX graph under construction: nodes, small constants, and weights in external data."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from glm.export.onnx.external_data import ExternalData, Slot

CONTRIB = "com.microsoft"  # the domain of ONNX Runtime's own operators


class Graph:
    """Nodes in the order in which they run.

    Args:
        opset: version of the standard operators. ir_version: of the file's form.
        vectors_inside: whether the graph's own file has the weights of one axis.

    Attributes:
        data: the weights' file.
        inputs, outputs: of the whole graph.
    """

    def __init__(self, opset: int, ir_version: int, vectors_inside: bool = False):
        self._opset, self._ir_version = opset, ir_version
        self.data = ExternalData(vectors_inside)
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self._nodes, self._count, self._constants = [], 0, {}

    def input(self, name: str, dtype: int, shape: list) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: int, shape: list) -> str:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def constant(self, numbers: np.ndarray) -> str:
        """A small array that lies in the graph's own file; equal ones lie there once."""
        numbers = np.asarray(numbers, order="C")
        key = (numbers.dtype.str, numbers.shape, numbers.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(numbers, f"constant_{len(self._constants)}")
        return self._constants[key].name

    def node(self, operator: str, *inputs: str, outputs: int | list[str] = 1, domain: str = "", **attributes: Any):
        """Adds a node.

        Args:
            inputs: names, "" for an optional one that is not given.
            outputs: their names, "" for one that is not wanted, or how many to name.
        Returns:
            The name of its output, or the list of them if there are several.
        """
        number, self._count = self._count, self._count + 1
        if isinstance(outputs, int):
            outputs = [f"{operator}_{number}_{i}" for i in range(outputs)]
        given = list(inputs)
        while given[-1] == "":
            given.pop()
        name = f"{operator}_{number}"
        self._nodes.append(helper.make_node(operator, given, outputs, name=name, domain=domain, **attributes))
        return outputs[0] if len(outputs) == 1 else outputs

    def contrib(self, operator: str, *inputs: str, outputs: int | list[str] = 1, **attributes: Any):
        """`node` with one of ONNX Runtime's own operators."""
        return self.node(operator, *inputs, outputs=outputs, domain=CONTRIB, **attributes)

    def either(self, condition: str, then: Callable[[], str], otherwise: Callable[[], str]) -> str:
        """One of two parts of the graph, the only one that runs: [...] float32.

        Args:
            condition: a boolean of one element.
            then, otherwise: add a part's nodes, which may read whatever came before; the last one gives the result.
        """
        parts = {"then_branch": self._part(then), "else_branch": self._part(otherwise)}
        return self.node("If", condition, **parts)

    def _part(self, add: Callable[[], str]) -> GraphProto:
        outside, self._nodes = self._nodes, []
        result = helper.make_tensor_value_info(add(), TensorProto.FLOAT, None)
        inside, self._nodes = self._nodes, outside
        return helper.make_graph(inside, f"part_{result.name}", [], [result])

    def name_result(self, name: str) -> None:
        """Gives the output of the last node this name."""
        self._nodes[-1].output[0] = name

    def model(self, location: str, properties: dict[str, str] | None = None) -> ModelProto:
        """The graph as a file would have it; weights that lie inside are there once `data` is written.

        Args:
            location: name of the weights' file, beside the graph's.
            properties: what else to say of the model.
        """
        nodes = list(_with_parts(self._nodes))
        uses = Counter(name for node in nodes for name in node.input)
        tensors = {slot.name: self._tensor(slot, location) for slot in self.data.slots if uses[slot.name]}
        for part in _parts(self._nodes):
            _take_own(part, tensors, uses)
        tensors = [*self._constants.values(), *tensors.values()]
        graph = helper.make_graph(self._nodes, "glm", self.inputs, self.outputs, tensors)
        versions = {"": self._opset} | ({CONTRIB: 1} if any(node.domain == CONTRIB for node in nodes) else {})
        opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=self._ir_version, producer_name="glm")
        helper.set_model_props(model, properties or {})
        return model

    def _tensor(self, slot: Slot, location: str) -> TensorProto:
        inside = slot.offset is None
        return numpy_helper.from_array(self.data.inside[slot.name], slot.name) if inside else _external(slot, location)


def _parts(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    for node in nodes:
        yield from (attribute.g for attribute in node.attribute if attribute.type == AttributeProto.GRAPH)


def _with_parts(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes, and those of their parts, which have no parts in turn."""
    yield from nodes
    for part in _parts(nodes):
        yield from part.node


def _take_own(part: GraphProto, tensors: dict[str, TensorProto], uses: Mapping[str, int]) -> None:
    """Moves the tensors into a part that no other node has: ONNX Runtime copies the names of those outside for every
    part, and starts in seconds instead of minutes where parts are many.
    """
    own = [name for node in part.node for name in node.input if uses[name] == 1 and name in tensors]
    del part.initializer[:]
    part.initializer.extend(tensors.pop(name) for name in own)


def _external(slot: Slot, location: str) -> TensorProto:
    tensor = TensorProto(name=slot.name, data_type=helper.np_dtype_to_tensor_dtype(slot.dtype), dims=slot.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", slot.offset), ("length", slot.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
