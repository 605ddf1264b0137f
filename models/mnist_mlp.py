"""A multilayer perceptron for MNIST in Keras' layers, for examples with another subject."""

import tensorflow as tf


def make_network(
    units: tuple[int, ...],
    learning_rate: float | tf.keras.optimizers.schedules.LearningRateSchedule,
    dtype: tf.DType,
    seed: int,
) -> tf.keras.Model:
    """Make a network from uint8 images (N, 28, 28, 1) to float32 logits (N, 10), ready for fit().

    Example 03 explains it operation by operation. `units` are the sizes of the hidden layers, named
    hidden1, hidden2, ..., which compute in `dtype`; the last layer is called output.
    """
    tf.keras.utils.set_random_seed(seed)
    policy = "mixed_bfloat16" if dtype == tf.bfloat16 else "float32"
    network = tf.keras.Sequential([tf.keras.Input([28, 28, 1], dtype="uint8")], name="network")
    network.add(tf.keras.layers.Rescaling(1 / 255))
    network.add(tf.keras.layers.Flatten())
    for number, count in enumerate(units, 1):
        layer = tf.keras.layers.Dense(count, "relu", name=f"hidden{number}", dtype=policy)
        network.add(layer)
    network.add(tf.keras.layers.Dense(10, name="output", dtype="float32"))
    network.compile(
        tf.keras.optimizers.SGD(learning_rate),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # compiling takes longer than so small a network gains
    )
    return network
