"""The loop IR: grammar, interpreter, transforms and printers of generated kernels."""
