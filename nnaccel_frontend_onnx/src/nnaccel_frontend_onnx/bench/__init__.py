"""``nnaccel bench --onnx``: ONNX networks against ONNX Runtime and OpenVINO."""
