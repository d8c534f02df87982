"""Models in ONNX as trunks: read with care, cut and pooled in OpenVINO, without Keras."""
