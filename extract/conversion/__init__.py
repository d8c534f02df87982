"""Trunks converted to OpenVINO by Keras itself, in a process that never loads TensorFlow."""
