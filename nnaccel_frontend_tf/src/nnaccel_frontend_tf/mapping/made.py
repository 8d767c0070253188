"""Constants and tensors made from nothing."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from nnaccel_core.ir import product
from nnaccel_frontend_tf.errors import Unmapped
from nnaccel_frontend_tf.items import Item, Known
from nnaccel_frontend_tf.mapping import Call, maps
from nnaccel_frontend_tf.mapping.shapes import target

#: Elements up to which a result is made while importing.
MOST = 1 << 16


@maps("Const")
def constant(n: Call) -> Item:
    n.dtype()
    return Known(np.asarray(tf.make_ndarray(n.attr("value"))), n.op.name)


@maps("Fill")
def fill(n: Call) -> Item:
    shape, item = target(n, 0, "the shape"), n.item(1)
    size = product(shape)
    if isinstance(item, Known) and isinstance(size, int) and size <= MOST:
        return Known(np.full([n.c.static(d) for d in shape], item.array.reshape(-1)[0]))
    x = n.c.read(item)
    return n.emit("expand", x, shape=tuple(shape)) if shape else x


@maps("Range")
def range_(n: Call) -> Item:
    start, limit, delta = (n.known(k, "the bound of a range").reshape(-1)[0] for k in range(3))
    count = max(0, int(np.ceil((limit - start) / delta)))
    if count > MOST:
        raise Unmapped(f"a range of {count} elements")
    return Known((start + np.arange(count) * delta).astype(n.dtype()))
