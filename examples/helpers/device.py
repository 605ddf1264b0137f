"""Where to compute, and in which arithmetic."""

import contextlib
import os
from pathlib import Path

import tensorflow as tf

from examples.helpers import HAS_NVIDIA


def processor() -> dict[str, str]:
    """Return the first processor's fields from /proc/cpuinfo (Linux), else an empty dict."""
    path = Path("/proc/cpuinfo")
    text = path.read_text().split("\n\n")[0] if path.exists() else ""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def cores() -> int:
    """Count the processor cores that this process may use."""
    linux = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1


def start(precision: str) -> tf.DType:
    """Print one line about the device; return the format that `precision`, the flag, names.

    bfloat16 is float32 without its last 16 bits: the same range, two to three decimal digits.
    Networks learn as well with it, and processors that multiply it natively do so about twice as
    fast; "auto" takes it there. Weights stay in float32, where a small update is not rounded away.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        with contextlib.suppress(RuntimeError):  # main() runs a second time in this process
            tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        device = f"GPU {details.get('device_name', '')}"
        fast = details.get("compute_capability", (0, 0)) >= (8, 0)
    else:
        device = f"CPU, {cores()} cores"
        if HAS_NVIDIA:
            device += " (not the GPU: TensorFlow's lines above say why; ./setup_env.sh --gpu)"
        fast = bool({"avx512_bf16", "amx_bf16"} & set(processor().get("flags", "").split()))
    if precision == "auto":
        precision = "bfloat16" if fast else "float32"
    print(f"{device} | TensorFlow {tf.__version__} | {precision}")
    return tf.as_dtype(precision)
