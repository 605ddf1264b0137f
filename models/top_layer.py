"""A new top layer for a network whose other layers stay as they are; example 07 explains it."""

import numpy as np
import tensorflow as tf
from tqdm.keras import TqdmCallback

WEIGHT_DECAY = 1e-2
DROPOUT = 0.5  # share of the features left out in a step, as when VGG16 itself was trained


def train_top(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, dict[str, list[float]]]:
    """Train a softmax regression with dropout and AdamW; keep the epoch of least validation loss.

    Args:
        train: features, float (N, F), and labels, int32 (N,).
        validation: likewise.
        classes: how many.
        epochs: passes over the training features.
        batch_size: rows in a step.
        learning_rate: of AdamW.
        seed: of the order of the rows, and of dropout.

    Returns:
        Kernel, float32 (F, classes), and bias, float32 (classes,), for features as they are; loss
        and accuracy, of training and validation, by epoch.
    """
    tf.keras.utils.set_random_seed(seed)
    mean = train[0].mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = train[0].std(axis=0, dtype=np.float32) + 1e-6
    dense = tf.keras.layers.Dense(classes, kernel_initializer="zeros")
    top = tf.keras.Sequential([tf.keras.layers.Dropout(DROPOUT), dense])
    top.compile(
        tf.keras.optimizers.AdamW(learning_rate, weight_decay=WEIGHT_DECAY),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    best = tf.keras.callbacks.EarlyStopping(patience=epochs, restore_best_weights=True)
    bar = TqdmCallback(verbose=0, desc="   top layer", leave=False)
    history = top.fit(
        (train[0] - mean) / deviation,
        train[1],
        batch_size,
        epochs,
        verbose=0,
        callbacks=[best, bar],
        validation_data=((validation[0] - mean) / deviation, validation[1]),
    ).history
    kernel, bias = dense.get_weights()
    kernel /= deviation[:, None]  # so that it takes features as they are
    history = {key.replace("val_", "validation_"): history[key] for key in history}
    return kernel, bias - mean @ kernel, history
