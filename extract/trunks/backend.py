"""Keras and its backend: loading it quietly, compiling for it. Nothing else knows the backend."""

import contextlib
import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from extract.core.errors import TrunkError

# Of malloc.h: how many blocks come from the system one by one; from how much free memory on some
# of it is given back.
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1


def load_keras() -> Any:
    """Import Keras without the start-up chatter of its backend.

    TensorFlow writes to file descriptor 2 before any of its own switches is read, so the descriptor
    itself is turned aside; what was written is shown if the import fails.

    Returns:
        The ``keras`` module.

    Raises:
        TrunkError: Keras is set up for another memory layout or type than the trunks are.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with interrupts_wait(), _stderr_aside():
            import keras
            import keras.src.backend  # makes the backend load here, where it is quiet
        logging.getLogger("tensorflow").addFilter(_matters)
    import keras

    found = (keras.config.image_data_format(), keras.config.floatx())
    if found != ("channels_last", "float32"):
        raise TrunkError(
            f"Keras' configuration: found {found[0]} and {found[1]}; expected channels_last and "
            "float32; change image_data_format and floatx in ~/.keras/keras.json"
        )
    return keras


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C come behind the body: TensorFlow's import was seen to swallow it."""
    aside = threading.current_thread() is not threading.main_thread()
    if aside or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def _matters(record: logging.LogRecord) -> bool:
    """Pass over what TensorFlow says of many small models: that each one is traced is meant."""
    return "tf.function retracing" not in record.getMessage()


@contextlib.contextmanager
def _stderr_aside() -> Iterator[None]:
    """Turn file descriptor 2 into a temporary file, and show that file if the body fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except Exception:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def load_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    The telemetry reports each conversion to its maker from a forked process, which besides inherits
    the lock on a store that is open at that moment. Without the module OpenVINO uses a stub.

    Returns:
        The ``openvino`` module.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def compile_model(model: Any, dtype: str, batch_size: int) -> Callable[[Any], list[Any]]:
    """Compile a model for batches of one fixed shape, on whichever backend Keras runs.

    ``predict`` in a loop leaks and retraces; one compiled function of a fixed shape does neither.

    Args:
        model: From one batch, such as (B, H, W, 3) uint8 pixels, to an array or a list of them.
        dtype: Type of the outputs; the cast happens on the device.
        batch_size: B.

    Returns:
        A function of one batch. Its outputs may still be under way: ``fetch`` waits for them.
    """
    backend = load_keras().backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        signature = tf.TensorSpec((batch_size, *model.input_shape[1:]), model.inputs[0].dtype)

        # XLA pays on a GPU; on a CPU it was slower (170 against 203 images/s, InceptionV3).
        @tf.function(input_signature=[signature], jit_compile=on_gpu())
        def tensorflow_call(pixels: Any) -> list[Any]:
            return [tf.cast(output, dtype) for output in as_list(model(pixels, training=False))]

        return lambda pixels: list(tensorflow_call(tf.constant(pixels)))
    if backend == "jax":
        import jax

        # The weights are arguments: closed over, they would be compiled in as constants.
        state = [v.value for v in model.trainable_variables]
        fixed = [v.value for v in model.non_trainable_variables]

        @jax.jit
        def jax_call(state: Any, fixed: Any, pixels: Any) -> list[Any]:
            outputs, _ = model.stateless_call(state, fixed, pixels, training=False)
            return [output.astype(dtype) for output in as_list(outputs)]

        return lambda pixels: list(jax_call(state, fixed, pixels))
    import torch

    def torch_call(pixels: Any) -> list[Any]:
        with torch.no_grad():
            outputs = model(torch.from_numpy(pixels), training=False)
            return [output.to(getattr(torch, dtype)) for output in as_list(outputs)]

    return torch_call


def keep_freed_memory() -> None:
    """Let this process keep what it frees for what it needs next, where the C library is GNU's.

    A step of training takes and frees whole sets of weights. By default each comes from the system
    anew and is cleared page by page; above cached maps that was a third of an epoch's time.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def as_list(outputs: Any) -> list[Any]:
    """Return a model's outputs as a list: Keras unwraps a list of one."""
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def fetch(output: Any) -> np.ndarray:
    """Wait for an output of a compiled function and bring it to the host."""
    return np.asarray(load_keras().ops.convert_to_numpy(output))


def backend_name() -> str:
    """Name Keras' backend without loading it, as far as that can be told."""
    if "keras" in sys.modules:
        return str(load_keras().backend.backend())
    return os.environ.get("KERAS_BACKEND") or "tensorflow"


def has_gpu() -> bool:
    """Say whether there is a GPU that a backend might see; asking a backend takes seconds."""
    return bool(shutil.which("nvidia-smi")) or any(
        Path(device).exists() for device in ("/dev/nvidia0", "/dev/kfd")
    )


def on_gpu() -> bool:
    """Say whether Keras' backend will run on an accelerator."""
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
    """Return the memory of the smallest NVIDIA GPU; None where there is none to ask."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return min(int(line) for line in answer.stdout.split()) * 2**20


def is_out_of_memory(error: Exception) -> bool:
    """Say whether a backend's error means that the device's memory did not suffice."""
    text = f"{type(error).__name__}: {error}".lower()
    return any(
        word in text for word in ("resource_exhausted", "resourceexhausted", "out of memory")
    )
