"""Reverse-mode differentiation of graphs: every frontend's training runs on it."""

from nnaccel_core.autodiff.partition import Derivative, Kept, derive, with_layouts
from nnaccel_core.autodiff.parts import Part, relaid, split
from nnaccel_core.autodiff.reverse import Joint, gradient_graph, gradients

__all__ = ["Derivative", "Joint", "Kept", "Part", "derive", "gradient_graph", "gradients", "relaid", "split", "with_layouts"]
