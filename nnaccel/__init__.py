"""nnaccel: one line makes an existing neural network faster, for prediction and training.

    optimized = nnaccel.optimize(my_network)

Everything here is `nnaccel_core`'s.
"""

from nnaccel_core import *  # noqa: F403
from nnaccel_core import __all__ as __all__
