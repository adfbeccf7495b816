"""A GLM's weights as an ONNX graph of one decoding step, with ONNX Runtime's own operators. Needs no Paddle to read."""
