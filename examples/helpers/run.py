"""A training that can be stopped, even by a power cut, and continued; example 06 explains it."""

import ast
import hashlib
import json
import shutil
import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from examples.helpers.cli import ROOT, UserError, shown, writing


def code_of(script: Path) -> str:
    """Return a script's syntax tree, without docstrings, and those of the models it imports."""
    tree, models = ast.parse(script.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)  # a text that stands alone, such as a docstring
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("models"):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
            models |= {ROOT / f"{name.replace('.', '/')}.py" for name in names}
    return ast.dump(tree) + "".join(code_of(path) for path in sorted(models) if path.is_file())


class Run:
    """What a training has come to, written to disk after each epoch and on Ctrl-C.

        for epoch in run:
            for step in run.steps():
                run.record(train_step(...))  # scalars by name
            run.validate({"validation_loss": ..., "validation_accuracy": ...})

    `step`: steps done in all; `history`: for each epoch done, its figures by name and `seconds`;
    `stop_asked`: whether Ctrl-C or SIGTERM has come; `folder`: named by settings and code.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict,
        script: str,
        epochs: int,
        steps: int,
        restart: bool = False,
        **trained: tf.Module,
    ):
        """Begin a run, or take up the one of these settings where it was left.

        `folder` is models/<script name>; `settings` all flags that decide the result; `script` the
        example's `__file__`; `steps` those of an epoch; `trained` what changes, optimizers built.
        """
        if steps < 1:
            raise UserError("the training images do not fill a batch: lower --batch-size")
        self.epochs, self.steps_per_epoch, self.step = epochs, steps, 0
        self.history, self._values, self._seconds = [], [], 0.0
        self.stop_asked, self._handlers = False, dict[int, Any]()
        text = json.dumps(settings, sort_keys=True, default=str) + code_of(Path(script))
        self.folder = folder / "checkpoints" / hashlib.sha256(text.encode()).hexdigest()[:12]
        with writing(self.folder):  # better now than after the first epoch
            self.folder.mkdir(parents=True, exist_ok=True)
            if restart:
                (self.folder / "checkpoint").unlink(missing_ok=True)  # TensorFlow's list
            self.folder.touch()
        for old in sorted(self.folder.parent.iterdir(), key=lambda p: p.stat().st_mtime)[:-3]:
            shutil.rmtree(old, ignore_errors=True)  # the newest three are kept
        self._state = tf.Variable("", dtype=tf.string)  # JSON: numbers come back to the last bit
        checkpoint = tf.train.Checkpoint(state=self._state, **trained)
        try:
            self._manager = tf.train.CheckpointManager(checkpoint, str(self.folder), max_to_keep=2)
            if self._manager.latest_checkpoint:
                checkpoint.restore(self._manager.latest_checkpoint).assert_consumed()
                state = json.loads(self._state.numpy())
                self.step, self.history, self._values, self._seconds = state
                print(f"going on after step {self.step}, from {shown(self.folder)}")
        except (tf.errors.OpError, AssertionError, LookupError, ValueError) as error:
            line = f"the checkpoint in {shown(self.folder)} is damaged; --restart begins anew"
            raise UserError(f"{line} ({str(error).splitlines()[0][:150]})") from error

    @property
    def done(self) -> float:
        """The share of all steps that is done, from 0 to 1."""
        return self.step / (self.epochs * self.steps_per_epoch)

    def metrics(self, batch_size: int) -> dict:
        """Return how the training went, its history as a list for each figure."""
        history = {name: [row[name] for row in self.history] for name in self.history[0]}
        seconds = sum(history["seconds"])
        speed = round(self.step * batch_size / seconds)
        return {"train_seconds": round(seconds, 1), "images_per_second": speed, "history": history}

    def save(self) -> None:
        """Write a checkpoint; a kill leaves the last one or this one, never half of one."""
        values = [{name: float(value) for name, value in row.items()} for row in self._values]
        self._state.assign(json.dumps([self.step, self.history, values, self._seconds]))
        with writing(self.folder):
            self._manager.save()

    def __iter__(self) -> Generator[int, None, None]:
        """Yield the number, from 0, of each epoch that is not done.

        The first Ctrl-C or SIGTERM lets the step at hand end, and stops when it is saved; a second
        Ctrl-C interrupts at once. A signal that the shell has ignored (nohup) stays ignored.
        """

        def ask_to_stop(*_: object) -> None:
            self.stop_asked = True
            if signal.SIGINT in self._handlers:
                signal.signal(signal.SIGINT, signal.default_int_handler)

        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, ask_to_stop)
        try:
            for epoch in range(len(self.history), self.epochs):
                yield epoch
                self._stop_if_asked()
        finally:
            self._hear_no_more()

    def steps(self, whole: bool = False) -> Iterator[int]:
        """Yield the number, from 0, of each step of this epoch that is not done; show a bar.

        Ctrl-C stops it after a step; at its end, where only `whole` epochs can be continued.
        """
        count, title = self.steps_per_epoch, f"epoch {len(self.history) + 1}"
        first = self.step - len(self.history) * count
        with tqdm(range(first, count), title, count, initial=first, leave=False) as bar:
            for step in bar:
                began = time.perf_counter()
                yield step
                self._seconds += time.perf_counter() - began
                self.step += 1
                if self.stop_asked and step + 1 < count and not whole:  # else validate() saves
                    self.save()
                    self._stop_if_asked()

    def record(self, values: dict[str, tf.Tensor]) -> None:
        """Take note of what a step has returned, scalars by name."""
        self._values.append(values)

    def validate(self, values: dict[str, float]) -> None:
        """End an epoch: print its line, with the means of its steps and these values, and save."""
        means = {k: np.mean([float(step[k]) for step in self._values]) for k in self._values[0]}
        row = {name: float(value) for name, value in (means | values).items()}
        figures = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in row.items()]
        line = f"epoch {len(self.history) + 1:2}: {', '.join(figures)}, {self._seconds:.1f} s"
        if not np.isfinite(list(row.values())).all():
            raise UserError(f"{line}: use a smaller --learning-rate")
        print(line, flush=True)
        self.history.append(row | {"seconds": self._seconds})
        self._values, self._seconds = [], 0.0
        self.save()

    def _hear_no_more(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def _stop_if_asked(self) -> None:
        if self.stop_asked and self.done < 1:
            self._hear_no_more()  # now: __iter__() may end much later, with the last traceback
            where = f"saved after step {self.step} in {shown(self.folder)}"
            raise KeyboardInterrupt(f"{where}; the same command goes on from there")

    def callback(self) -> tf.keras.callbacks.Callback:
        """Return this run as a callback for Keras' fit(), with `initial_epoch=len(run.history)`."""
        epochs, bars = iter(self), []

        def begin(epoch: int, logs: dict) -> None:
            next(epochs)
            bars.append(self.steps(whole=True))
            next(bars[-1])

        def end(epoch: int, logs: dict) -> None:
            names = ("loss", "accuracy")
            self.record({name: logs[name] for name in names})
            self.validate({f"validation_{name}": logs[f"val_{name}"] for name in names})

        step, close = lambda *_, **__: next(bars[-1], None), lambda *_, **__: epochs.close()
        return tf.keras.callbacks.LambdaCallback(begin, end, None, close, None, step)
