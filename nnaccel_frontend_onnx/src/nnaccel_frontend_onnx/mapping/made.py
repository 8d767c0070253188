"""Constants and tensors made from nothing."""

from __future__ import annotations

import numpy as np

from nnaccel_core.ir import product
from nnaccel_frontend_onnx.bridge import ir_dtype
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.importer import FOLD
from nnaccel_frontend_onnx.items import Item, Known
from nnaccel_frontend_onnx.loading import sparse_array, tensor_array, where
from nnaccel_frontend_onnx.mapping import Call, maps
from nnaccel_frontend_onnx.mapping.pointwise import element_type
from nnaccel_frontend_onnx.mapping.sizes import dims_of


@maps("Constant")
def constant(n: Call) -> Item:
    what = f"the constant of {where(n.node)}"
    for name, attr in n.attrs.items():
        if name == "value":
            return Known(tensor_array(attr.t, None, what))
        if name == "sparse_value":
            return Known(sparse_array(attr.sparse_tensor, what))
        if name in ("value_float", "value_floats"):
            return Known(np.asarray(n.attr(name), np.float32))
        if name in ("value_int", "value_ints"):
            return Known(np.asarray(n.attr(name), np.int64))
        if name in ("value_string", "value_strings"):
            return Known(np.asarray(n.attr(name)).astype(object))
    raise Unmapped("it has no value")


@maps("ConstantOfShape")
def constant_of_shape(n: Call) -> Item:
    value = np.zeros((), np.float32)
    if "value" in n.attrs:
        value = tensor_array(n.attrs["value"].t, None, f"the value of {where(n.node)}").reshape(-1)[0]
    shape = dims_of(n.item(0))
    if shape is None:
        n.known(0, "the shape of a constant")
        raise Unmapped("its shape is no list of sizes")
    size = product(shape)
    if isinstance(size, int) and size <= FOLD:
        return Known(np.full([int(d) for d in shape], value))
    dtype = ir_dtype(value.dtype)
    if dtype is None:
        raise Unmapped(f"a constant of {value.dtype}")
    return n.emit("expand", n.c.constant(value, dtype), shape=tuple(shape))


@maps("Range")
def range_(n: Call) -> Item:
    bounds = [n.known(k, "the bound of a range") for k in range(3)]
    start, limit, delta = (b.reshape(-1)[0] for b in bounds if b is not None)
    count = max(0, int(np.ceil((limit - start) / delta)))
    if count > FOLD:
        raise Unmapped(f"a range of {count} elements")
    return Known((start + np.arange(count) * delta).astype(start.dtype))


@maps("EyeLike")
def eye_like(n: Call) -> Item:
    x = n.item(0)
    shape = x.array.shape if isinstance(x, Known) else n.x().shape
    dtype = element_type(n.attr("dtype")) if "dtype" in n.attrs else str(x.array.dtype) if isinstance(x, Known) else n.x().dtype
    rows, columns = (n.c.static(d) for d in shape)
    if rows * columns > FOLD:
        raise Unmapped(f"an identity of {rows} x {columns}")
    return Known(np.eye(rows, columns, int(n.attr("k", 0)), dtype))
