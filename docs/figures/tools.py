"""Find out for note 11 which file formats TensorFlow's readers read, and draw its figures.

    python docs/figures/tools.py

writes docs/images/tools_*.svg and the tables tools_* of the notes. A small network is written in
eight formats, and each of nine readers is tried on each of them: what a table says was found so.
"""

import contextlib
import io
import json
import pickle
import statistics
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import drawing  # isort: skip  # before TensorFlow
from drawing import BLUE, GREY, ORANGE  # isort: skip

import absl.logging
import h5py
import matplotlib.pyplot as plt
import ml_dtypes
import numpy as np
import tensorflow as tf

IMAGE = (8, 8, 1)  # the small network's: height, width, channels
EXAMPLES = np.random.default_rng(0).random((16, *IMAGE), np.float32)
LABELS = np.arange(len(EXAMPLES)) % 3
REFUSALS = (OSError, ValueError, tf.errors.OpError)  # what readers raise for what they cannot read
NETWORK, WEIGHTS, PARTLY, NO = "network", "weights", "partly", "no"


# %% A network in every format


def make_network(seed: int, units: int = 8) -> tf.keras.Model:
    """Make a network for images (N, 8, 8, 1), with Adam's moving averages still at zero."""
    tf.keras.utils.set_random_seed(seed)
    layers = tf.keras.layers
    network = tf.keras.Sequential(
        [
            tf.keras.Input(IMAGE, name="images"),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.Flatten(name="flatten"),
            layers.Dense(units, "relu", name="hidden"),
            layers.Dense(3, name="output"),
        ],
        name="small",
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss)
    network.optimizer.build(network.trainable_variables)
    return network


def trained_network(units: int = 8) -> tf.keras.Model:
    """Make a network and train it for a moment, on noise, so that Adam has something to keep."""
    network = make_network(0, units)
    network.fit(EXAMPLES, LABELS, epochs=2, verbose=0)
    return network


def by_name(network: tf.keras.Model) -> dict[str, np.ndarray]:
    """Return the weights by their names, such as "small/conv/kernel"."""
    return {variable.path: variable.numpy() for variable in network.weights}


def write_v1(network: tf.keras.Model, path: Path) -> None:
    """Write a checkpoint as TensorFlow did at first: all in one file, under plain names."""
    weights = by_name(network)
    tf.raw_ops.Save(filename=str(path), tensor_names=[*weights], data=[*weights.values()])


def write_v2(network: tf.keras.Model, path: Path) -> None:
    """Write a checkpoint of version 2 under plain names, as TensorFlow 1's Saver does."""
    weights = by_name(network)
    tf.raw_ops.SaveV2(
        prefix=str(path),
        tensor_names=[*weights],
        shape_and_slices=[""] * len(weights),
        tensors=[*weights.values()],
    )


def write_objects(network: tf.keras.Model, path: Path) -> None:
    """Write a checkpoint of version 2 with the network and its optimiser as a graph of objects."""
    tf.train.Checkpoint(model=network, optimizer=network.optimizer).write(str(path))


def write_npz(network: tf.keras.Model, path: Path) -> None:
    """Write the weights, and nothing else."""
    np.savez(path, **by_name(network))


# The heading of each format, how its file is called, what writes it, and what the table says of it.
FORMATS: dict[str, tuple[str, Callable, str]] = {
    "V1": ("v1.ckpt", write_v1, "`tf.raw_ops.Save`"),
    "V2, names": ("v2_names", write_v2, "`tf.raw_ops.SaveV2`"),
    "V2, objects": ("v2_objects", write_objects, "`tf.train.Checkpoint.write`"),
    "SavedModel": (
        "saved_model",
        lambda network, path: network.export(str(path), verbose=False),
        "`model.export`",
    ),
    ".keras": ("model.keras", lambda network, path: network.save(path), "`model.save`"),
    ".weights.h5": (
        "model.weights.h5",
        lambda network, path: network.save_weights(path),
        "`model.save_weights`",
    ),
    ".h5, whole": ("model.h5", lambda network, path: network.save(path), "`model.save`"),
    ".npz": ("weights.npz", write_npz, "`np.savez`"),
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings: that a format is old, that an optimiser was not loaded, and so on."""
    before = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        absl.logging.set_verbosity(before)


def write_all(network: tf.keras.Model, folder: Path) -> dict[str, Path]:
    """Write the network in all formats, and return where (for V2: the prefix of its files)."""
    paths = {}
    with quiet():
        for name, (file, write, _) in FORMATS.items():
            paths[name] = folder / file
            write(network, paths[name])
    return paths


# %% Every reader
# Each gets the path, the right weights by name and the right logits; it returns what it could get
# from the file, having compared it, and raises one of REFUSALS if it can read nothing.


def same(network: Callable, logits: np.ndarray) -> bool:
    """Tell whether a network, or what a file made of it, answers as the written one did."""
    answers = network(EXAMPLES)
    (answers,) = tf.nest.flatten(answers)
    return np.allclose(answers, logits, atol=1e-6)


def holds(arrays: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    """Tell whether each of the wanted arrays is among `arrays`, bit for bit."""
    return all(any(np.array_equal(found, one) for found in arrays) for one in wanted)


def checkpoint_arrays(prefix: Path) -> list[np.ndarray]:
    """Read all numbers in a TensorFlow checkpoint."""
    reader = tf.train.load_checkpoint(str(prefix))
    tensors = [reader.get_tensor(name) for name in reader.get_variable_to_shape_map()]
    return [tensor for tensor in tensors if isinstance(tensor, np.ndarray)]


def hdf5_arrays(file: Path | io.BytesIO) -> list[np.ndarray]:
    """Read all arrays in an HDF5 file."""
    found = []
    with h5py.File(file) as opened:
        opened.visititems(
            lambda _, item: found.append(item[()]) if isinstance(item, h5py.Dataset) else None
        )
    return [np.asarray(array) for array in found]


def try_load_checkpoint(path: Path, weights: dict, logits: np.ndarray) -> str:
    """Try tf.train.load_checkpoint, on a SavedModel's own checkpoint too."""
    if path.is_dir():
        with contextlib.suppress(*REFUSALS):
            checkpoint_arrays(path)
            return WEIGHTS
        inner = path / "variables" / "variables"
        return PARTLY if holds(checkpoint_arrays(inner), [*weights.values()]) else NO
    return WEIGHTS if holds(checkpoint_arrays(path), [*weights.values()]) else NO


def try_restore(path: Path, weights: dict, logits: np.ndarray) -> str:
    """Try tf.train.Checkpoint.restore: a Keras model, variables by name, a list of variables."""
    network = make_network(1)
    tf.train.Checkpoint(model=network, optimizer=network.optimizer).restore(str(path))
    if same(network, logits):
        return WEIGHTS
    named = [tf.Variable(np.zeros_like(array), name=name) for name, array in weights.items()]
    tf.train.Checkpoint(**{f"v{i}": v for i, v in enumerate(named)}).restore(str(path))
    if all(np.array_equal(v, w) for v, w in zip(named, weights.values(), strict=True)):
        return PARTLY
    tf.train.Checkpoint(variables=network.variables).restore(str(path))
    return PARTLY if same(network, logits) else NO


def try_saved_model_load(path: Path, weights: dict, logits: np.ndarray) -> str:
    """Try tf.saved_model.load."""
    loaded = tf.saved_model.load(str(path))  # to be kept: the function does not keep its variables
    return NETWORK if same(loaded.serve, logits) else NO


def try_load_model(path: Path, weights: dict, logits: np.ndarray) -> str:
    """Try tf.keras.models.load_model."""
    return NETWORK if same(tf.keras.models.load_model(path), logits) else NO


def try_load_weights(path: Path, weights: dict, logits: np.ndarray) -> str:
    """Try load_weights of a network that was made by the same code."""
    network = make_network(1)
    network.load_weights(path)
    return WEIGHTS if same(network, logits) else NO


def try_layer(path: Path, weights: dict, logits: np.ndarray) -> str:
    """Try tf.keras.layers.TFSMLayer."""
    layer = tf.keras.layers.TFSMLayer(str(path), call_endpoint="serve")
    return NETWORK if same(layer, logits) else NO


def try_session(path: Path, weights: dict, logits: np.ndarray) -> str:
    """Try what TensorFlow Serving does: load the graph, let it restore its variables, feed it."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        model = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        signature = model.signature_def["serving_default"]
        (given,), (asked,) = signature.inputs.values(), signature.outputs.values()
        run = lambda images: session.run(asked.name, {given.name: images})  # noqa: E731
        return NETWORK if same(run, logits) else NO


def try_h5py(path: Path, weights: dict, logits: np.ndarray) -> str:
    """Try h5py, on what is in a zip archive too."""
    if path.is_file() and zipfile.is_zipfile(path):
        with contextlib.suppress(*REFUSALS):
            hdf5_arrays(path)
            return WEIGHTS
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".h5")]
            arrays = [a for name in members for a in hdf5_arrays(io.BytesIO(archive.read(name)))]
        return PARTLY if holds(arrays, [*weights.values()]) else NO
    return WEIGHTS if holds(hdf5_arrays(path), [*weights.values()]) else NO


def try_numpy(path: Path, weights: dict, logits: np.ndarray) -> str:
    """Try np.load."""
    with np.load(path) as file:
        arrays = [file[name] for name in file.files if isinstance(file[name], np.ndarray)]
    return WEIGHTS if holds(arrays, [*weights.values()]) else NO


READERS: dict[str, Callable[[Path, dict, np.ndarray], str]] = {
    "`load_checkpoint`": try_load_checkpoint,
    "`restore`": try_restore,
    "`saved_model.load`": try_saved_model_load,
    "session (Serving)": try_session,
    "`TFSMLayer`": try_layer,
    "`load_model`": try_load_model,
    "`load_weights`": try_load_weights,
    "`h5py.File`": try_h5py,
    "`np.load`": try_numpy,
}


def try_all(network: tf.keras.Model, paths: dict[str, Path]) -> dict[tuple[str, str], str]:
    """Try every reader on every format; return the outcome for each pair of their names."""
    weights, logits = by_name(network), network(EXAMPLES).numpy()
    outcomes = {}
    with quiet():
        for reader, attempt in READERS.items():
            for name, path in paths.items():
                try:
                    outcomes[reader, name] = attempt(path, weights, logits)
                except REFUSALS:
                    outcomes[reader, name] = NO
    return outcomes


# Why an outcome is "partly", or what else is to be known about it.
FOOTNOTES = {
    1: (
        "A SavedModel has a checkpoint inside: its prefix is `FOLDER/variables/variables`, and the"
        " arrays in it are numbered, not named after the layers."
    ),
    2: (
        "Into variables (`tf.Variable`) that have the right names. A Keras model is left as it was,"
        " and only `assert_consumed()` complains."
    ),
    3: (
        "With `tf.train.Checkpoint(variables=model.variables)`, the names that `export` gives."
        " With `model=model`, nothing is loaded and nothing is said."
    ),
    4: (
        "Not one that was written by `tf.saved_model.save(model)` of a Keras model:"
        " its variables are not found"
        " ([example 08, Check](../../examples/example08_serving_export.py#check))."
    ),
    5: "A `.keras` file is a zip archive; h5py reads the `model.weights.h5` that is unpacked.",
}
NOTED = {
    ("`load_checkpoint`", "SavedModel"): 1,
    ("`restore`", "V1"): 2,
    ("`restore`", "V2, names"): 2,
    ("`restore`", "SavedModel"): 3,
    ("session (Serving)", "SavedModel"): 4,
    ("`h5py.File`", ".keras"): 5,
}

SHORT = {NETWORK: "**N**", WEIGHTS: "**W**", PARTLY: "", NO: "·"}


def readers_table(outcomes: dict[tuple[str, str], str]) -> str:
    """Return the table of who reads what, and its footnotes."""
    rows = []
    for reader in READERS:
        cells = [reader]
        for name in FORMATS:
            outcome = outcomes[reader, name]
            note = f" ({NOTED[reader, name]})" if (reader, name) in NOTED else ""
            cells.append((SHORT[outcome] + note).strip())
        rows.append(cells)
    narrow = {"SavedModel": "Saved Model", ".weights.h5": ".weights .h5", ".h5, whole": ".h5"}
    names = [narrow.get(name, name) for name in FORMATS]
    table = drawing.table(["", *names], "l" * (1 + len(FORMATS)), rows)
    return table + "\n\n" + "\n".join(f"{n}. {text}" for n, text in FOOTNOTES.items())


# %% What is inside, and how large it is
UNITS = 700  # of the hidden layer in the network whose files are compared: about 100,000 weights


def files(path: Path) -> list[Path]:
    """Return the files that a format has written: one, a folder of them, or those of a prefix."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return sorted(path.parent.glob(path.name)) or sorted(path.parent.glob(f"{path.name}.*"))


def all_arrays(path: Path) -> list[np.ndarray]:
    """Read all arrays in a file of any of the formats."""
    if path.is_dir():
        return checkpoint_arrays(path / "variables" / "variables")
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if "model.weights.h5" in archive.namelist():
                return hdf5_arrays(io.BytesIO(archive.read("model.weights.h5")))
        with np.load(path) as file:
            return [file[name] for name in file.files]
    if path.suffix == ".h5":
        return hdf5_arrays(path)
    return checkpoint_arrays(path)


def sizes(network: tf.keras.Model, paths: dict[str, Path]) -> dict[str, tuple[int, int]]:
    """Return the number of files and of bytes for each format, and for two more ways of .npz."""
    weights, folder = by_name(network), paths[".npz"].parent
    halves = {name: array.astype(np.float16) for name, array in weights.items()}
    np.savez(folder / "half.npz", **halves)
    np.savez_compressed(folder / "compressed.npz", **weights)
    more = {".npz, float16": folder / "half.npz", ".npz, compressed": folder / "compressed.npz"}
    return {
        name: (len(files(path)), sum(file.stat().st_size for file in files(path)))
        for name, path in (paths | more).items()
    }


def keeps_optimiser(network: tf.keras.Model, path: Path) -> bool:
    """Tell whether Adam's moving averages are in the file."""
    shapes = {variable.shape for variable in network.trainable_variables}
    averages = [v.numpy() for v in network.optimizer.variables if v.shape in shapes]
    return bool(averages) and holds(all_arrays(path), averages)


ARCHITECTURE = {"SavedModel": "as a graph", ".keras": "as layers", ".h5, whole": "as layers"}


def contents_table(network: tf.keras.Model, paths: dict[str, Path]) -> str:
    """Return the table of what is in the files of a network, and of their sizes."""
    exact = 4 * network.count_params()
    rows = []
    for name, (count, size) in sizes(network, paths).items():
        is_named = name.startswith((".npz", "V1", "V2, names"))
        optimiser = "what is given"
        if not is_named:
            optimiser = "yes" if keeps_optimiser(network, paths[name]) else "no"
        rows.append(
            [
                name,
                FORMATS[name][2] if name in FORMATS else "",
                ARCHITECTURE.get(name, "no"),
                optimiser,
                f"{count}",
                f"{size / exact:.2f}",
            ]
        )
    header = ["format", "written by", "network", "Adam's state", "files", "size"]
    return drawing.table(header, "llllrr", rows)


# %% Does reading run code?


class Touch:
    """An object whose pickle makes an empty file when it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        """Tell pickle to call Path.touch."""
        return Path.touch, (self.mark,)


def module_that_writes(mark: Path, when_loaded: bool) -> tf.Module:
    """Make a module whose SavedModel writes a file, when it is loaded or when it is called."""

    class Resource(tf.saved_model.experimental.TrackableResource):
        def _create_resource(self):
            return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="nothing")

        def _initialize(self):
            tf.io.write_file(str(mark), "")

    module = tf.Module()
    if when_loaded:
        module.resource = Resource()
        assert module.resource.resource_handle is not None  # which makes it

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
    def call(x):
        if not when_loaded:
            tf.io.write_file(str(mark), "")
        return x

    module.call = call
    return module


def code_trials(folder: Path) -> list[tuple[str, str, bool]]:
    """Hide harmless code, which makes an empty file, in files, read these, and look for it.

    Returns:
        For each trial the format, how it was read, and whether the code was run.
    """
    mark = folder / "was_here"
    place = str(mark)
    evil = lambda x: (__import__("pathlib").Path(place).touch(), x)[1]  # noqa: E731
    network = tf.keras.Sequential([tf.keras.Input([2]), tf.keras.layers.Lambda(evil)])
    with quiet():
        network.save(folder / "lambda.keras")
        network.save(folder / "lambda.h5")
    np.savez(folder / "object.npz", weights=np.array(Touch(mark), dtype=object))
    for name, when_loaded in (("loaded", True), ("called", False)):
        tf.saved_model.save(module_that_writes(mark, when_loaded), str(folder / name))

    def load(name, **how):
        return lambda: tf.keras.models.load_model(folder / name, **how)

    def numpy(**how):
        return lambda: np.load(folder / "object.npz", **how)["weights"]

    trials = [
        (".npz, a pickled object", "`np.load`", numpy()),
        (".npz, a pickled object", "`np.load(allow_pickle=True)`", numpy(allow_pickle=True)),
        (".keras, a `Lambda` layer", "`load_model`", load("lambda.keras")),
        (
            ".keras, a `Lambda` layer",
            "`load_model(safe_mode=False)`",
            load("lambda.keras", safe_mode=False),
        ),
        (".h5, a `Lambda` layer", "`load_model`", load("lambda.h5")),
        (
            ".h5, a `Lambda` layer",
            "`load_model(safe_mode=False)`",
            load("lambda.h5", safe_mode=False),
        ),
        (
            "SavedModel, `tf.io.write_file` where a resource is initialised",
            "`tf.saved_model.load`",
            lambda: tf.saved_model.load(str(folder / "loaded")),
        ),
        (
            "SavedModel, `tf.io.write_file` in a function",
            "`tf.saved_model.load`",
            lambda: tf.saved_model.load(str(folder / "called")),
        ),
        (
            "SavedModel, `tf.io.write_file` in a function",
            "... and calling it",
            lambda: tf.saved_model.load(str(folder / "called")).call(1.0),
        ),
    ]
    results = []
    for kind, how, read in trials:
        mark.unlink(missing_ok=True)
        with quiet(), contextlib.suppress(*REFUSALS, pickle.UnpicklingError):
            read()
        results.append((kind, how, mark.exists()))
    return results


def code_table(trials: list[tuple[str, str, bool]]) -> str:
    """Return the table of which code was run."""
    rows = [[kind, how, "**run**" if ran else "not run"] for kind, how, ran in trials]
    return drawing.table(["the code is in", "read by", "the code was"], "lll", rows)


# %% TFRecord


def record_parts(content: bytes) -> list[tuple[str, bytes]]:
    """Split the content of a TFRecord file into its parts, each with its name."""
    parts = []
    while content:
        length = int.from_bytes(content[:8], "little")
        for name, size in (
            ("length", 8),
            ("checksum of the length", 4),
            ("data", length),
            ("checksum of the data", 4),
        ):
            parts.append((name, content[:size]))
            content = content[size:]
    return parts


def draw_record() -> None:
    """Draw the bytes of a TFRecord file with two short records."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "two.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as file:
            for data in (b"seven", b"two"):
                file.write(data)
        parts = record_parts(path.read_bytes())
    colours = {"length": "none", "data": (ORANGE, 0.35)}
    axes = drawing.panels(2, (3.65, 1.9))
    for record, axis in enumerate(axes):
        for i, (name, content) in enumerate(parts[4 * record : 4 * record + 4]):
            if i % 2 == 0:  # length and its checksum in one line, data and theirs in the next
                x, y = 0, -3 * (i // 2)
            box = {"fc": colours.get(name, (BLUE, 0.25)), "ec": GREY}
            axis.add_patch(plt.Rectangle((x, y), len(content), 1, **box))
            axis.text(x, y + 1.2, name)
            for byte in content:
                axis.text(x + 0.5, y + 0.5, f"{byte:02x}", ha="center", va="center")
                if name == "data":
                    axis.text(x + 0.5, y - 0.5, f"'{chr(byte)}'", ha="center", va="center")
                x += 1
        axis.set(title=f"record {record + 1}", xlim=(-0.1, 12.6), ylim=(-3.9, 2.2))
        axis.axis("off")
    drawing.save_panels(axes, "tools_record")


def reading_table() -> str:
    """Return the table of how fast example 10 got at its images, from its recorded runs."""
    runs = [
        json.loads(path.read_text())["images_per_second_by_way"]
        for path in sorted((drawing.ROOT / "docs" / "results").glob("example10_photographs*.json"))
    ]
    rows = [
        [way, f"{statistics.median(run[way] for run in runs):,.0f}", spread(runs, way)]
        for way in runs[0]
    ]
    return drawing.table(["", "images a second", "range of three runs"], "lrr", rows)


def spread(runs: list[dict], way: str) -> str:
    """Return the least and the most of some runs."""
    return f"{min(run[way] for run in runs):,.0f} to {max(run[way] for run in runs):,.0f}"


# %% Number formats

NUMBERS = {"float32": (8, 23), "float16": (5, 10), "bfloat16": (8, 7)}  # bits: exponent, fraction


def number_format(exponent: int, fraction: int) -> dict[str, float]:
    """Compute from its bits what a floating-point format of IEEE 754's kind can hold."""
    bias = 2 ** (exponent - 1) - 1
    return {
        "largest": (2 - 2.0**-fraction) * 2.0**bias,
        "smallest": 2.0 ** (1 - bias),  # that has all its digits: the least normal number
        "step": 2.0**-fraction,  # from 1 to the next number
    }


def numbers_table() -> str:
    """Return the table of number formats."""
    rows = []
    for name, (exponent, fraction) in NUMBERS.items():
        values = number_format(exponent, fraction)
        dtype = getattr(ml_dtypes, name, None) or np.dtype(name).type
        with np.errstate(over="ignore"):
            tenth, large = float(dtype(0.1)), float(dtype(70_000))
        rows.append(
            [
                name,
                f"1+{exponent}+{fraction}",
                f"{values['largest']:.5g}",
                f"{values['smallest']:.2g}",
                f"{values['step']:.2g}",
                f"{tenth:.9g}",
                f"{large:,.0f}" if np.isfinite(large) else "infinite",
            ]
        )
    header = ["", "bits", "largest", "least, all digits", "1 to the next", "0.1", "70,000"]
    return drawing.table(header, "lrrrrrr", rows)


def draw_numbers() -> None:
    """Draw where the bits of each number format go."""
    figure, axis = plt.subplots(figsize=(3.65, 2.2))
    colours = {"sign": "none", "exponent": (BLUE, 0.25), "fraction": (ORANGE, 0.35)}
    for row, (name, bits) in enumerate(NUMBERS.items()):
        x, y = 0, -1.9 * row
        axis.text(0, y + 1.15, name)
        for (part, colour), count in zip(colours.items(), (1, *bits), strict=True):
            label = part if row == 0 else None
            axis.add_patch(plt.Rectangle((x, y), count, 1, fc=colour, ec=GREY, label=label))
            axis.vlines(x + np.arange(1, count), y, y + 0.2, color=GREY, lw=0.6)
            axis.text(x + count / 2, y + 0.55, str(count), ha="center", va="center")
            x += count
    axis.set(xlim=(-0.1, 32.1), ylim=(-3.9, 1.9))
    axis.axis("off")
    figure.legend(loc="outside lower center", ncols=3)
    drawing.save(figure, "tools_numbers")


def main() -> None:
    """Try all formats, and write the tables and figures."""
    with tempfile.TemporaryDirectory() as folder:
        network = trained_network()
        drawing.write(
            readers_table(try_all(network, write_all(network, Path(folder)))), "tools_readers"
        )
    with tempfile.TemporaryDirectory() as folder:
        network = trained_network(UNITS)
        drawing.write(contents_table(network, write_all(network, Path(folder))), "tools_contents")
    with tempfile.TemporaryDirectory() as folder:
        drawing.write(code_table(code_trials(Path(folder))), "tools_code")
    drawing.write(reading_table(), "tools_reading")
    drawing.write(numbers_table(), "tools_numbers")
    draw_record()
    draw_numbers()


if __name__ == "__main__":
    drawing.run(main)
