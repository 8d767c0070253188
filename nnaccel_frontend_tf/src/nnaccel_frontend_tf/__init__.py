"""TensorFlow and Keras for nnaccel: models in, models out. Importing this does not import TensorFlow."""

__version__ = "0.1.0"
