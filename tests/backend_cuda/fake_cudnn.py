"""A stand-in for cuDNN's frontend: graphs are recorded, and executed with numpy on the stand-in GPU of `fake`."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from backend_cuda import fake
from nnaccel_backend_cuda import attention
from nnaccel_core.ops.registry import lookup


def cudnn(device: fake.Device, refuses: tuple[str, ...] = ()) -> Any:
    """The module. ``refuses``: operations that no plan has."""

    class Tensor:
        def __init__(self, graph: Any, dim: Any = None, stride: Any = None, kind: Any = "float32") -> None:
            self.graph, self.dim, self.stride, self.uid, self.kind = graph, dim, stride, -1, kind

        def set_uid(self, uid: int) -> Tensor:
            self.uid = uid
            self.graph.operands[uid] = (self.dim, self.stride, self.kind)
            return self

        def set_output(self, on: bool) -> Tensor:
            return self

        def set_data_type(self, kind: Any) -> Tensor:
            self.kind = kind
            return self

        def set_dim(self, dim: Any) -> Tensor:
            self.dim = dim
            return self

        def set_stride(self, stride: Any) -> Tensor:
            self.stride = stride
            return self

    class Graph:
        def __init__(self, **_: Any) -> None:
            self.operands: dict[int, Any] = {}
            self.steps: list[list[Any]] = []
            self.result = 4

        def tensor(self, name: str, dim: Any, stride: Any, data_type: Any) -> Tensor:
            return Tensor(self, dim, stride, data_type)

        def conv_fprop(self, image: Tensor, weight: Tensor, **given: Any) -> Tensor:
            return self._conv("conv", 4, given)

        def conv_dgrad(self, loss: Tensor, filter: Tensor, **given: Any) -> Tensor:
            return self._conv("conv_backward_data", 1, given)

        def conv_wgrad(self, image: Tensor, loss: Tensor, **given: Any) -> Tensor:
            return self._conv("conv_backward_weights", 2, given)

        def _conv(self, op: str, result: int, given: dict[str, Any]) -> Tensor:
            padding = list(zip(given["pre_padding"], given["post_padding"], strict=True))
            self.steps.append([op, {"padding": padding, "stride": given["stride"], "dilation": given["dilation"]}])
            self.result = result
            return Tensor(self)

        def bias(self, input: Tensor, bias: Tensor) -> Tensor:
            return self._step("bias")

        def add(self, a: Tensor, b: Tensor) -> Tensor:
            return self._step("add")

        def relu(self, input: Tensor) -> Tensor:
            return self._step("relu")

        def sigmoid(self, input: Tensor) -> Tensor:
            return self._step("sigmoid")

        tanh = swish = sigmoid

        def _step(self, name: str) -> Tensor:
            self.steps.append([name, {}])
            return Tensor(self)

        def sdpa(self, name: str, q: Tensor, k: Tensor, v: Tensor, generate_stats: bool, **given: Any) -> tuple[Any, Any]:
            self._attention("sdpa", given)
            return Tensor(self), Tensor(self) if generate_stats else None

        def sdpa_backward(self, name: str, **given: Any) -> tuple[Any, ...]:
            assert given["use_deterministic_algorithm"]
            self._attention("sdpa_backward", given)
            return Tensor(self), Tensor(self), Tensor(self)

        def _attention(self, op: str, given: dict[str, Any]) -> None:
            self.steps.append([op, {"scale": given["attn_scale"], "causal": given["use_causal_mask"]}])

        def validate(self) -> None:
            pass

        build_operation_graph = validate

        def create_execution_plans(self, modes: Any) -> None:
            if any(name in refuses for name, _ in self.steps):
                raise RuntimeError("no engine proposed a plan")

        def check_support(self) -> None:
            pass

        def deselect_numeric_notes(self, notes: Any) -> None:
            device.log.append(f"without {notes}")

        def get_execution_plan_count(self) -> int:
            return 3

        def build_plan_at_index(self, i: int) -> None:
            if i == 0:
                raise RuntimeError("plan 0 cannot be built")
            device.log.append(f"built {i}")

        def get_workspace_size_plan_at_index(self, i: int) -> int:
            return 64 * i

        def get_plan_name_at_index(self, i: int) -> str:
            return f"eng{i}"

        def serialize(self) -> list[int]:
            return list(json.dumps([{str(k): v for k, v in self.operands.items()}, self.steps, self.result]).encode())

        def deserialize(self, handle: Any, data: list[int]) -> None:
            operands, self.steps, self.result = json.loads(bytes(data))
            self.operands = {int(k): v for k, v in operands.items()}
            device.log.append("deserialized")

        def execute_plan_at_index(self, pack: Mapping[int, int], workspace: int, i: int, handle: Any) -> None:
            self.execute(pack, workspace, handle)

        def execute(self, pack: Mapping[int, int], workspace: int, handle: Any) -> None:
            assert workspace % 256 == 0
            arrays = {}
            for uid, (dim, stride, kind) in self.operands.items():
                arrays[uid] = fake.view(pack[uid], tuple(dim), tuple(stride), np.dtype(kind))

            def run() -> None:
                residual = 5
                for name, attrs in self.steps:
                    if name.startswith("sdpa"):
                        given, results = attention.SIDES[name]
                        operands = [arrays[u] for u in (*given, attention.MASK) if u in arrays]
                        for uid, array in zip(results, lookup(name).ref(operands, attrs), strict=True):
                            if uid in arrays:
                                arrays[uid][...] = array
                        return
                    if name.startswith("conv"):
                        x, w = arrays[1], arrays[2]
                        attrs = {**attrs, "groups": x.shape[1] // w.shape[1]}
                        attrs |= {"spatial": x.shape[2:], "window": w.shape[2:]}
                        given = {"conv": [x, w], "conv_backward_data": [arrays[4], w], "conv_backward_weights": [arrays[4], x]}
                        (y,) = lookup(name).ref(given[name], attrs)
                    elif name == "bias":
                        y = y + arrays[3]
                    elif name == "add":
                        y = y + arrays[residual]
                        residual += 1
                    else:
                        (y,) = lookup(name).ref([y], {})
                arrays[self.result][...] = y

            device.do("cudnn " + "+".join(name for name, _ in self.steps), run)

    notes = types.SimpleNamespace(TENSOR_CORE="tensor cores", DOWN_CONVERT_INPUTS="down conversion", WINOGRAD="winograd")
    return types.SimpleNamespace(
        pygraph=Graph, numerical_note=notes, heur_mode=types.SimpleNamespace(A=0, FALLBACK=1), create_handle=object,
        data_type=types.SimpleNamespace(FLOAT="float32", HALF="float16", BFLOAT16="bfloat16"), backend_version=lambda: 1,
        set_stream=lambda handle, stream: None, __version__="fake",
    )  # fmt: skip
