"""Keras' backend: TensorFlow, JAX or PyTorch, imported late; ``compiled`` knows them, too."""

import contextlib
import ctypes
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from extract.core.errors import TrunkError
from extract.display.progress import step
from extract.trunks import configuration

# Options of mallopt, from malloc.h.
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1


def load_keras() -> Any:
    """Import Keras without the start-up messages of its backend.

    TensorFlow writes to file descriptor 2 before it reads any setting, so the descriptor itself is
    redirected. If the import fails, the messages are shown.

    Returns:
        The ``keras`` module.

    Raises:
        TrunkError: Keras' backend is not installed or unknown here, or Keras is configured for
            another memory layout or type than the trunks are.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        try:
            with (
                step(f"loading {configuration.backend_title()}"),
                delay_interrupt(),
                _hold_stderr(),
            ):
                import keras.src.backend  # loads the backend here, where its messages are held back
        except Exception as error:  # a keras.json of another form can raise anything
            raise configuration.refuse(error) from error
        # TensorFlow warns that it traces each of many small models, which is intended.
        logging.getLogger("tensorflow").addFilter(lambda r: "retracing" not in r.getMessage())
    import keras

    if keras.backend.backend() not in configuration.BACKENDS:
        raise configuration.refuse()
    layout, dtype = keras.config.image_data_format(), keras.config.floatx()
    if (layout, dtype) != ("channels_last", "float32"):
        problem = f"found {layout} and {dtype}; expected channels_last and float32"
        raise TrunkError(f"Keras' configuration: {problem}; change them in ~/.keras/keras.json")
    return keras


@contextlib.contextmanager
def delay_interrupt() -> Iterator[None]:
    """Raise Ctrl-C after the body instead of within it: TensorFlow's import can swallow it."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    received: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if received:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _hold_stderr() -> Iterator[None]:
    """Redirect file descriptor 2 to a temporary file; print that file if the body fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held, os.fdopen(os.dup(2), "wb") as stderr:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            stderr.write(held.read())
            raise
        finally:
            os.dup2(stderr.fileno(), 2)


def load_openvino() -> Any:
    """Import the ``openvino`` module without its telemetry.

    The telemetry reports each conversion from a forked process, which would inherit the lock on a
    store that is open at that moment. Without the telemetry module OpenVINO uses a stub.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def convert_to_openvino(model: Any) -> Any:
    """Convert a Keras model on TensorFlow to an ``openvino.Model``."""
    openvino = load_openvino()
    from openvino.frontend.tensorflow import utils

    # A function of that module binds a name in one call of exec and deletes it in another. Since
    # Python 3.13 the second call does not see the name, so the two get a namespace to share.
    names: dict[str, Any] = {}
    utils.exec = lambda code: exec(code, names)
    with warnings.catch_warnings(), _usual_logging():
        # Keras warns that OpenVINO's tracer passes a tuple for a single input.
        warnings.filterwarnings("ignore", "The structure of `inputs`", UserWarning)
        return openvino.convert_model(model)


@contextlib.contextmanager
def _usual_logging() -> Iterator[None]:
    """Restore the root logger, which OpenVINO mutes to convert and, if that fails, leaves so."""
    root = logging.getLogger()
    level, filters = root.level, root.filters[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters = filters


def fuse_operations(model: Any) -> None:
    """Simplify an ``openvino.Model`` in place, as ``convert_to_openvino`` does at its end."""
    from openvino._offline_transformations import apply_moc_transformations

    apply_moc_transformations(model, cf=False)


def takes_name(name: str) -> bool:
    """Return whether the backend runs a layer of that name; TensorFlow knows few characters."""
    in_scope = re.fullmatch(r"[A-Za-z0-9_.\\/>-]*", name)
    return bool(in_scope) or configuration.backend_name() != "tensorflow"


def freeze(model: Any) -> tuple[Any, str, str]:
    """Make a graph of a model in which weights and other tensors are constants.

    Args:
        model: A Keras model from pixels to scores, on TensorFlow.

    Returns:
        The ``GraphDef``, and the names of its input and of its output.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = [tf.TensorSpec(model.input_shape, model.inputs[0].dtype, name="pixels")]
    call = tf.function(lambda pixels: model(pixels, training=False), signature)
    former = tf.config.functions_run_eagerly()
    # Functions that XLA compiles, such as Keras' convolution in groups, become parts of the graph.
    tf.config.run_functions_eagerly(True)
    try:
        frozen = convert_variables_to_constants_v2(call.get_concrete_function())
    finally:
        tf.config.run_functions_eagerly(former)
    definition = frozen.graph.as_graph_def(add_shapes=True)
    return definition, frozen.inputs[0].name, frozen.outputs[0].name


@contextlib.contextmanager
def graph_of(definition: Any, optimize: Callable[[Any], Any]) -> Iterator[Any]:
    """Make the graph of an optimized ``GraphDef`` the one that operations are added to."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        definition = optimize(definition)
        tf.import_graph_def(definition, name="")
        del definition  # it has a copy of all weights
        yield graph


@contextlib.contextmanager
def as_os_error() -> Iterator[None]:
    """Raise TensorFlow's own errors of files, such as that of a full disk, as OSError."""
    from tensorflow.errors import OpError

    try:
        yield
    except OpError as error:
        raise OSError(error.message.rpartition("; ")[2].partition(" [")[0]) from error


def fetch(output: Any) -> np.ndarray:
    """Wait for an output of a compiled function and copy it to the host."""
    import keras

    return np.asarray(keras.ops.convert_to_numpy(output))


@contextlib.contextmanager
def suppress_out_of_memory() -> Iterator[None]:
    """Suppress a backend's error that the device has no memory left."""
    try:
        yield
    except Exception as error:
        if not re.search("(?i)resource_?exhausted|out of memory", f"{type(error)} {error}"):
            raise


def keep_freed_memory() -> None:
    """Make GNU's C library keep freed memory for later use instead of returning it.

    A training step allocates and frees full sets of weights. Without this setting the system clears
    each page again, which takes a third of an epoch's time above cached maps.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def has_gpu() -> bool:
    """Return whether the machine seems to have a GPU; asking a backend takes seconds."""
    devices = ("/dev/nvidia0", "/dev/kfd")
    return bool(shutil.which("nvidia-smi")) or any(map(os.path.exists, devices))


def on_gpu() -> bool:
    """Return whether Keras' backend runs on an accelerator; loads Keras."""
    backend = load_keras().backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    if backend == "jax":
        import jax

        return str(jax.default_backend()) != "cpu"
    import torch

    return bool(torch.cuda.is_available())


def gpu_memory_bytes() -> int | None:
    """Return the memory of the smallest NVIDIA GPU, None if ``nvidia-smi`` finds none."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return min(int(line) for line in answer.stdout.split()) * 2**20
