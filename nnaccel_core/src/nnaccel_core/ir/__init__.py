"""The graph IR: dims, tensor types, values, nodes, graphs, programs."""

from nnaccel_core.ir.dims import Dim, Env, Expr, ceil_div, dim_max, dim_min, evaluate, free_symbols, product, substitute, sym
from nnaccel_core.ir.graph import Graph, Node, Rewriter, Update, Value, live_nodes, prune
from nnaccel_core.ir.program import Foreign, If, Loop, Program, Segment
from nnaccel_core.ir.types import TensorType, channels_last, identity, numpy_dtype

__all__ = [
    "Dim", "Env", "Expr", "Foreign", "Graph", "If", "Loop", "Node", "Program", "Rewriter", "Segment", "TensorType",
    "Update", "Value", "ceil_div", "channels_last", "dim_max", "dim_min", "evaluate", "free_symbols", "identity",
    "live_nodes", "numpy_dtype", "product", "prune", "substitute", "sym",
]  # fmt: skip
