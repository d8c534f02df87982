"""Keras, imported once and quietly.

A module that needs Keras imports it from here at its top, and is itself imported inside the
function that needs it.
"""

from extract.trunks.backend import load_keras

keras = load_keras()
