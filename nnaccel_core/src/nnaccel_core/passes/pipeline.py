"""The graph passes in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nnaccel_core.ir import Graph, Node
from nnaccel_core.ir.verify import verify
from nnaccel_core.ops.registry import infer
from nnaccel_core.passes import activations, affine, canonicalize, casts, concat, fold, pooling, reshapes

GraphPass = Callable[[Graph], Graph]

#: Run in this order; plug-ins place theirs by these names.
GRAPH_PASSES: tuple[tuple[str, GraphPass], ...] = (
    ("eliminate_identities", canonicalize.eliminate_identities),
    ("merge_views", canonicalize.merge_views),
    ("recognize_activations", activations.recognize_activations),
    ("fold_affine", affine.fold_affine),
    ("fold_batch_norm", fold.fold_batch_norm),
    ("fold_affine_behind_batch_norm", affine.fold_affine),
    ("fold_bias", fold.fold_bias),
    ("merge_concats", concat.merge_concats),
    ("measure_before_concat", concat.measure_before_concat),
    ("move_before_concat", concat.move_before_concat),
    ("activate_after_max_pool", concat.activate_after_max_pool),
    ("merge_sibling_convolutions", concat.merge_sibling_convolutions),
    ("pool_after_convolution", pooling.pool_after_convolution),
    ("decompose", fold.decompose),
    ("activate_before_views", reshapes.activate_before_views),
    ("merge_decomposed_views", canonicalize.merge_views),
    ("fold_constants", canonicalize.fold_constants),
    ("eliminate_common_subexpressions", canonicalize.eliminate_common_subexpressions),
    ("eliminate_dead_identities", canonicalize.eliminate_identities),
    ("widen_for_each_reader", casts.widen_for_each_reader),
)
#: Not in training, where weights change with each step: what they make of weights would be made anew each time.
PREDICTION_ONLY = frozenset({"fold_affine", "fold_affine_behind_batch_norm"})
#: Not with ``numerics="strict"``: they take sums of activations in another order.
FAST_ONLY = frozenset({"pool_after_convolution"})


def graph_passes(whole: Callable[[Node], bool], live: bool = False, strict: bool = False) -> list[tuple[str, GraphPass]]:
    """The passes for a backend that runs fused operators ``whole`` where that says so; ``live``: in training."""
    first: tuple[str, GraphPass] = ("decompose_fused", lambda graph: fold.decompose_fused(graph, whole))
    left_out = (PREDICTION_ONLY if live else frozenset()) | (FAST_ONLY if strict else frozenset())
    return [first, *((name, run) for name, run in GRAPH_PASSES if name not in left_out)]


def run_passes(
    graph: Graph, passes: Sequence[tuple[str, GraphPass]], observe: Callable[[str, Graph, Graph], None] | None = None
) -> Graph:
    """Apply ``passes`` in order, verifying after each; ``observe(name, before, after)`` sees every step.

    Raises:
        VerifyError: a pass broke the graph.
    """
    verify(graph, infer, "capture")
    for name, run in passes:
        before = graph
        graph = run(graph)
        verify(graph, infer, name)
        if observe is not None:
            observe(name, before, graph)
    return graph
