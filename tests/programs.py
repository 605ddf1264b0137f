"""What the tests of several examples share: running them as programs, within the test's process or
in one of their own, to their end or until a signal stops them; and reading what a run has saved.
"""

import contextlib
import importlib
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from examples.helpers import cli, report
from examples.helpers.run import Run

ROOT = Path(__file__).resolve().parents[1]


def figures(name):
    """Import docs/figures/NAME.py."""
    if str(ROOT / "docs" / "figures") not in sys.path:
        sys.path.append(str(ROOT / "docs" / "figures"))
    return importlib.import_module(name)


def arguments(data_dir, models_dir, *more):
    """Return the flags for a run on sample data, and more of them."""
    return ["--data", "sample", "--data-dir", data_dir, "--models-dir", models_dir, *more]


def wait_for(condition, what="it", seconds=60):
    """Ask until the answer is true, and return it; `what`, or what() says, was waited for."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited for {what() if callable(what) else what} in vain"
        time.sleep(0.01)
    return found


def png(pixels, form="PNG"):
    """Pack pixels (height, width) or (height, width, 3), uint8, as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def one_line_of(kind, call, *args):
    """Return the text of the error of this kind that a call must raise; it must be one line."""
    with pytest.raises(kind) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


class Trap:
    """An object whose unpickling leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# --- Within the test's process --------------------------------------------------------------------


def run(main, *argv):
    """Run main(), and return what it returns and what it prints; for fixtures of whole modules."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        result = main(list(map(str, argv)))
    return result, output.getvalue()


def without_pictures(main, *argv):
    """Run main() without its pictures, which take longer than a short training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "save_figure", lambda figure, path: report.plt.close(figure) or path)
        return main(list(map(str, argv)))


def status(main, capsys, *argv):
    """Run main() as a program does: exit status, and the lines on stderr."""
    code = 0
    try:
        cli.run(lambda: main(list(map(str, argv))))
    except SystemExit as error:
        code = error.code
    return code, lines_without_bars(capsys.readouterr().err)


def error_of(main, capsys, *argv):
    """Run what must end with status 1 and one line on stderr, and return that line."""
    code, lines = status(main, capsys, *argv)
    assert (code, len(lines)) == (1, 1), lines
    assert lines[0].startswith("error: ")
    return lines[0]


def lines_without_bars(errors):
    """Return the lines of what was written to stderr that are no progress bars."""
    lines = errors.replace("\r", "\n").splitlines()
    bar = re.compile(r"%\||: [\d,.]+k? of [\d,.]+k?, \d")  # in a terminal, and in a log
    return [line for line in lines if line.strip() and not bar.search(line)]


# --- In a process of its own ----------------------------------------------------------------------


def start(*arguments, env=None):
    """Start Python with these arguments, in a process that waits to be asked for its output."""
    command = [sys.executable, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env)


def wait_while_running(process, condition):
    """Wait until a condition holds, before the process ends."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def stop_when(process, condition, number):
    """Send an example a signal once a condition holds, and check that it ends as it should."""
    wait_while_running(process, condition)
    process.send_signal(number)
    check_stopped(process, number)


def check_stopped(process, number=signal.SIGKILL):
    """Check that an example that was sent a signal ends as it should."""
    output, errors = process.communicate(timeout=300)
    assert "\ntest accuracy" not in output
    assert "Traceback" not in errors
    if number == signal.SIGINT:
        assert process.returncode == 130, errors
        assert lines_without_bars(errors)[-1].startswith("interrupted"), errors
    else:
        assert process.returncode == -number, errors


# --- What a run has saved -------------------------------------------------------------------------


def checkpoint_folder(models_dir):
    """Return the folder with the checkpoints of the only run there is."""
    (folder,) = models_dir.glob("*/checkpoints/*")
    return folder


def final_state(models_dir):
    """Return all that was trained, byte by byte, and the history without the seconds it took."""
    reader = report.tf.train.load_checkpoint(str(checkpoint_folder(models_dir)))
    names = [name for name in reader.get_variable_to_shape_map() if "CHECKPOINTABLE" not in name]
    state = {name: reader.get_tensor(name) for name in names if "save_counter" not in name}
    step, history, values, _ = json.loads(state.pop("state/.ATTRIBUTES/VARIABLE_VALUE"))
    for row in history:
        row.pop("seconds")
    return {name: value.tobytes() for name, value in state.items()}, step, history, values


# --- Stopped at a chosen moment -------------------------------------------------------------------


def send_in_step(when, number):
    """Make a run send itself a signal in a step, counted from 1 over all runs of the process."""
    steps, count = Run.steps, 0

    def signalling(self, *whole, **more):
        nonlocal count
        for step in steps(self, *whole, **more):
            count += 1
            if count == when:
                os.kill(os.getpid(), number)
            yield step

    Run.steps = signalling


def check_ctrl_c(when, main, capsys, *argv):
    """Run main() as a program that gets Ctrl-C in a step, and check that it ends as it should."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "steps", Run.steps)  # so that it is set back
        send_in_step(when, signal.SIGINT)
        code, errors = status(main, capsys, *argv)
    assert code == 130, errors
    assert errors[-1].startswith("interrupted; ") and "the same command goes on" in errors[-1]


KILL = f"""
import importlib, os, pathlib, signal, sys, threading, time
example, moment, when, *sys.argv[1:] = sys.argv[1:]
from examples.helpers import cli
from examples.helpers.run import Run, tf

{inspect.getsource(send_in_step)}

def kill_when_there_is_a_file(folder):
    while not list(folder.glob(f"ckpt-{{when}}*")):
        pass
    os.kill(os.getpid(), signal.SIGKILL)

def save(manager, save=tf.train.CheckpointManager.save):
    if int(manager.checkpoint.save_counter) == int(when) - 1:
        folder = pathlib.Path(manager.directory)
        threading.Thread(target=kill_when_there_is_a_file, args=[folder]).start()
        save(manager)
        time.sleep(60)
    return save(manager)

if moment == "in step":
    send_in_step(int(when), signal.SIGKILL)
else:
    tf.train.CheckpointManager.save = save
cli.run(importlib.import_module(example).main)
"""


def start_to_be_killed(example, moment, when, *arguments, before=""):
    """Start an example, a module, in a process of its own that is killed at a chosen moment.

    That is "in step" or "while saving"; `when` is the number of the step, over all runs of the
    process, or of the checkpoint, from 1. `before` is code to run first, to make it smaller.
    """
    script = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{before}\n{KILL}"
    return start("-c", script, example.__name__, moment, when, *arguments)
