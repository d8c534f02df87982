"""What Keras is configured to run on, and what is installed, without loading anything."""

import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version

from extract.core.errors import TrunkError, first_line

# The backends that trunks run on.
BACKENDS: tuple[str, ...] = ("tensorflow", "jax", "torch")


def backend_name() -> str:
    """Return the name of Keras' backend, without loading Keras for it."""
    if "keras" in sys.modules:
        return str(sys.modules["keras"].backend.backend())
    if named := os.environ.get("KERAS_BACKEND"):
        return named
    try:
        with open(_path(), encoding="utf-8") as file:
            return str(json.load(file)["backend"])
    except (OSError, ValueError, LookupError, TypeError):  # Keras then takes its default
        return "tensorflow"


def backend_title() -> str:
    """Return the name of Keras' backend as its makers write it."""
    titles = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
    return titles.get(backend_name(), backend_name())


def _path() -> str:
    """Return the path of Keras' configuration."""
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    return os.path.join(home, "keras.json")


def refuse(error: Exception | None = None) -> TrunkError:
    """Return the error of a configuration with which Keras cannot be loaded, or runs no trunk."""
    named = os.environ.get("KERAS_BACKEND")
    if error and not isinstance(error, ImportError) and "backend" not in str(error):
        named = None  # what is wrong is in the file
    found = f"KERAS_BACKEND={named}" if named else _path()
    found += f" ({first_line(error)})" if error else ""
    change = "unset KERAS_BACKEND" if named else "mend or remove that file"
    expected = f"expected {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}, installed"
    return TrunkError(f"Keras: found {found}; {expected}; install it, or {change}")


def installed_version(package: str) -> str:
    """Return a version, ``none`` for a package under another name, such as tensorflow-cpu."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
