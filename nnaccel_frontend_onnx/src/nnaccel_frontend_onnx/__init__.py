"""ONNX for nnaccel: files, bytes or `ModelProto`s in, callables on numpy arrays out. Importing this does not import onnx."""

__version__ = "0.1.0"
