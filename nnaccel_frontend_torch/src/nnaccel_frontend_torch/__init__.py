"""PyTorch for nnaccel: `torch.nn.Module`s in, `torch.nn.Module`s out. Importing this package does not import torch."""

__version__ = "0.1.0"
