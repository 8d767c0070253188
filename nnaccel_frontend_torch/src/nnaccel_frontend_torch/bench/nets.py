"""Networks by name: torchvision's classifiers, or ``module:callable`` for the user's own."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnaccel_core.errors import InputError

#: The 24 variants (8 families) that the project reports.
VARIANTS = (
    "alexnet", "densenet121", "densenet161", "densenet169", "densenet201", "inception_v3",
    "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "squeezenet1_0", "squeezenet1_1",
    "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn",
)  # fmt: skip

#: Inception is defined for this size, everything else for 224.
SIZES = {"inception_v3": 299}


@dataclass(frozen=True)
class Network:
    """A network in eval mode and the shape of one input without its batch axis."""

    name: str
    module: Any
    sample_shape: tuple[int, ...]


def prelude() -> None:
    """Run the file that ``NNACCEL_BENCH_PRELUDE`` names, if it does: what an environment needs before torchvision imports."""
    path = os.environ.get("NNACCEL_BENCH_PRELUDE")
    if path:
        try:
            text = Path(path).read_text()
        except OSError as e:
            raise InputError(f"NNACCEL_BENCH_PRELUDE={path} cannot be read: {e.strerror}") from e
        exec(compile(text, path, "exec"), {"__name__": "nnaccel_bench_prelude"})


def _from_callable(name: str) -> Network:
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as e:
        raise InputError(f"network {name}: {e}; give torchvision's name or importable module:callable") from e
    made = factory()
    if isinstance(made, tuple):
        net, shape = made
        return Network(name, net.eval(), tuple(shape))
    return Network(name, made.eval(), (3, 224, 224))


def load(name: str, seed: int = 0) -> Network:
    """The network called ``name`` with random weights from ``seed``.

    ``module:callable`` returns a module, or ``(module, input shape without the batch axis)``.

    Raises:
        InputError: there is no such network, or torchvision does not import here.
    """
    import torch

    torch.manual_seed(seed)
    if ":" in name:
        return _from_callable(name)
    try:
        from torchvision import models  # type: ignore[import-not-found,unused-ignore]
    except (ImportError, RuntimeError) as e:
        raise InputError(f"network {name} needs torchvision, which does not import here: {e}") from e
    factory = getattr(models, name, None)
    if factory is None or name.startswith("_") or not callable(factory):
        raise InputError(f"torchvision has no network called {name!r}; the reported ones are: {', '.join(VARIANTS)}")
    more = {"init_weights": True} if name == "inception_v3" else {}
    net = factory(weights=None, **more).eval()
    size = SIZES.get(name, 224)
    return Network(name, net, (3, size, size))


def sample(network: Network, batch: int, seed: int = 1) -> Any:
    """Normal random input of ``batch`` samples, float32."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, *network.sample_shape), generator=generator)
