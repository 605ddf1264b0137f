"""What every example needs and none teaches: what is to be settled before the imports."""

import os
import shutil
import signal
import sys
import time

STARTED = time.perf_counter()  # total_seconds counts from here, TensorFlow's start-up included

# The lessons need Keras 3 on TensorFlow with its own defaults, whatever another project has set: a
# keras.json with "channels_first" would change results in silence. Pictures go to files.
os.environ |= {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull}
os.environ.pop("TF_USE_LEGACY_KERAS", None)
if "ipykernel" not in sys.modules:  # a notebook has a backend of its own
    os.environ["MPLBACKEND"] = "Agg"
# With an NVIDIA driver, TensorFlow shall say what keeps it from using the GPU; else nothing.
HAS_NVIDIA = shutil.which("nvidia-smi") is not None
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if HAS_NVIDIA else "3")
if not sys.stderr.isatty():  # in a log, a line of a progress bar every half minute
    os.environ |= {"TQDM_DELAY": "10", "TQDM_MININTERVAL": "30", "TQDM_MAXINTERVAL": "30"}
    os.environ["TQDM_BAR_FORMAT"] = "{desc}: {n_fmt} of {total_fmt}, {elapsed}\n"
_stderr = os.dup(2)
if not HAS_NVIDIA:  # two lines come whatever the log level
    with open(os.devnull, "w") as _nowhere:
        os.dup2(_nowhere.fileno(), 2)
_before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends: nothing is made yet
import tensorflow as tf

signal.signal(signal.SIGINT, _before)
os.dup2(_stderr, 2)
os.close(_stderr)
tf.get_logger().setLevel("ERROR")
