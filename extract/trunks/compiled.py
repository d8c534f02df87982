"""Functions that Keras' backend compiles. Only this file and ``backend`` know the backends."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

from extract.trunks.backend import on_gpu
from extract.trunks.keras_import import keras

BACKEND = keras.backend.backend()


def compile_model(model: Any, dtype: str, batch_size: int) -> Callable[[Any], list[Any]]:
    """Compile a model for batches of one fixed shape, on any backend.

    ``predict`` in a loop leaks memory and retraces; one compiled function of a fixed shape does
    neither.

    Args:
        model: A Keras model of one input, such as (B, H, W, 3) uint8 pixels.
        dtype: Type of the outputs; the cast happens on the device.
        batch_size: B.

    Returns:
        A function from a batch to a list of outputs, which may still be being computed: ``fetch``
        waits for them.
    """

    def call(pixels: Any) -> list[Any]:
        return cast(model(pixels, training=False))

    def cast(outputs: Any) -> list[Any]:
        return [keras.ops.cast(output, dtype) for output in keras.tree.flatten(outputs)]

    if BACKEND == "tensorflow":
        import tensorflow as tf

        signature = tf.TensorSpec((batch_size, *model.input_shape[1:]), model.inputs[0].dtype)
        # XLA is faster on a GPU but slower on a CPU (170 against 203 images/s, InceptionV3).
        compiled = tf.function(call, input_signature=[signature], jit_compile=on_gpu())
        return lambda pixels: list(compiled(tf.constant(pixels)))
    if BACKEND == "jax":
        import jax

        # The weights are arguments: in a closure they would be compiled in as constants.
        variables = (model.trainable_variables, model.non_trainable_variables)
        weights = [[variable.value for variable in part] for part in variables]

        @jax.jit
        def jax_call(trainable: Any, fixed: Any, pixels: Any) -> list[Any]:
            return cast(model.stateless_call(trainable, fixed, pixels, training=False)[0])

        return lambda pixels: list(jax_call(*weights, pixels))
    import torch

    def torch_call(pixels: Any) -> list[Any]:
        with torch.no_grad():
            return call(torch.from_numpy(pixels))

    return torch_call


def compile_steps(model: Any, training: bool) -> Callable[[Any, Any, int], None]:
    """Compile a loop over batches of one fixed shape as one function, on any backend.

    Args:
        model: A compiled ``keras.Model``.
        training: Whether each batch is a ``train_step`` or a ``test_step``.

    Returns:
        A function of (S, B, *shape) rows, their (S, B) classes and the number of batches to run, at
        most S. It updates the variables and the metrics of the model. PyTorch runs it step by step.
    """
    step = model.train_step if training else model.test_step
    if BACKEND == "tensorflow":
        return _compile_in_tensorflow(step)
    if BACKEND == "jax":
        optimizer = [model.optimizer.variables] if training else []
        weights = model.trainable_variables, model.non_trainable_variables
        return _compile_in_jax(step, (*weights, *optimizer, model.metrics_variables))
    import torch

    def call(x: Any, y: Any, count: int) -> None:
        with torch.set_grad_enabled(training):
            for batch in zip(x[:count], y[:count], strict=True):
                step(tuple(map(keras.ops.convert_to_tensor, batch)))

    return call


def _compile_in_tensorflow(step: Callable[[Any], Any]) -> Callable[[Any, Any, int], None]:
    import tensorflow as tf

    def loop(x: Any, y: Any, count: Any) -> None:
        def body(i: Any) -> list[Any]:
            step((x[i], y[i]))
            return [i + 1]

        tf.while_loop(lambda i: i < count, body, [0], parallel_iterations=1)

    compiled = tf.function(loop, autograph=False, jit_compile=on_gpu())
    return lambda x, y, count: compiled(tf.constant(x), tf.constant(y), tf.constant(count))


def _compile_in_jax(
    step: Callable[[Any, Any], Any], variables: Sequence[Sequence[Any]]
) -> Callable[[Any, Any, int], None]:
    """Compile a step, which takes and returns the values of variables, in the lists of Keras."""
    import jax

    @partial(jax.jit, donate_argnums=0)
    def loop(state: Any, x: Any, y: Any, count: Any) -> Any:
        return jax.lax.fori_loop(0, count, lambda i, s: step(s, (x[i], y[i]))[1], state)

    def call(x: Any, y: Any, count: int) -> None:
        state = tuple([variable.value for variable in part] for part in variables)
        values = jax.block_until_ready(loop(state, x, y, count))
        for variable, value in zip(chain(*variables), chain(*values), strict=True):
            variable.assign(value)

    return call


def fuse(update: Callable[..., None]) -> Callable[..., None]:
    """Compile an optimizer's update of one variable into a single pass over it.

    In TensorFlow each of its operations is a pass of its own: two thirds of the time of a step.
    The other backends compile it as a part of ``compile_steps``.
    """
    if BACKEND != "tensorflow":
        return update
    import tensorflow as tf

    compiled: Callable[..., None] = tf.function(update, autograph=False, jit_compile=True)
    return compiled
