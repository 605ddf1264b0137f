"""setup_env.sh with the real uv, in folders of their own, with a package of one line."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OLDER = shutil.which("python3.11") or next(
    Path.home().glob(".pyenv/versions/3.11.*/bin/python3"), None
)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="setup_env.sh is a bash script")


class Clone:
    """A folder with setup_env.sh, whose lock names one tiny package that lies beside it."""

    def __init__(self, folder: Path):
        self.root = folder / "a clone"
        (self.root / "docs").mkdir(parents=True)
        shutil.copy(ROOT / "setup_env.sh", self.root)
        if (ROOT / ".uv").exists():  # else uv is on PATH
            (self.root / ".uv").symlink_to(ROOT / ".uv")
        wheel = folder / "tiny-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr("tiny.py", "def main():\n    print('tiny works')\n")
            for name, text in {
                "METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n",
                "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                "entry_points.txt": "[console_scripts]\ntiny = tiny:main\n",
                "RECORD": "",
            }.items():
                file.writestr(f"tiny-1.dist-info/{name}", text)
        self.hash = hashlib.sha256(wheel.read_bytes()).hexdigest()
        self.environment = os.environ | {
            "UV_FIND_LINKS": str(folder),
            "UV_NO_INDEX": "1",
            "UV_CACHE_DIR": str(folder / "cache"),
            "UV_PYTHON_DOWNLOADS": "never",
        }
        self.require("tiny==1")

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def require(self, line: str, checksum: str = "") -> None:
        (self.root / "requirements.txt").write_text(f"# why\n{line}  # why\n")
        said = subprocess.run(["cksum"], input=f"{line}\n", capture_output=True, text=True).stdout
        (self.root / "requirements.lock").write_text(
            f"# requirements.txt: checksum {said}{line} --hash=sha256:{checksum or self.hash}\n"
        )

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [self.root / "setup_env.sh", *arguments],
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str | Path, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environment)
        output, errors = process.communicate(timeout=120)
        return process.returncode, output, errors

    def error(self, *arguments: str, **environment: str) -> str:
        """The one line that a failed call ends with; nothing of the environment is left."""
        status, output, errors = self.run(*(arguments or ("true",)), **environment)
        assert (status, output) == (1, "")
        assert re.findall("^error: ", errors, re.MULTILINE) == ["error: "], errors
        assert list(self.root.glob(".venv*")) == []
        return errors.splitlines()[-1]


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def test_the_command_runs_in_an_environment_that_is_made_once_and_may_be_moved(clone, tmp_path):
    assert clone.run("tiny")[:2] == (0, "tiny works\n")
    made = clone.venv.stat()
    command = [
        "bash",
        "-c",
        'echo "[$1][$2] $PWD $VIRTUAL_ENV"; exit 42',
        "-",
        "two words",
        "--gpu",
    ]
    said = f"[two words][--gpu] {Path.cwd()} {clone.venv}\n"
    assert clone.run(*command) == (42, said, ""), "no word of setup_env.sh's own"
    assert clone.venv.stat().st_ino == made.st_ino
    clone.root = clone.root.rename(tmp_path / "moved")
    assert clone.run("tiny") == (0, "tiny works\n", "")
    activated = f'source "{clone.venv}/bin/activate" && tiny && echo $VIRTUAL_ENV'
    output = subprocess.run(["bash", "-c", activated], capture_output=True, text=True).stdout
    assert output == f"tiny works\n{clone.venv}\n"


def test_the_newest_python_is_taken_unless_another_is_chosen(clone):
    version = ("python", "-c", "import sys; print(sys.version_info[1])")
    newest = int(clone.run(*version)[1])
    assert 11 <= newest <= 13 and newest >= sys.version_info[1]
    if OLDER is None or newest == 11:
        pytest.skip("needs a second Python, 3.11")
    assert clone.run(*version, PYTHON=str(OLDER))[1] == "11\n"
    assert clone.run(*version)[1:] == ("11\n", ""), "the choice is kept"
    clone.require("tiny==1 ; python_version > '3'")
    assert clone.run(*version)[1] == "11\n", "also when the lock changes"
    (clone.venv / "bin/python").unlink()
    assert clone.run(*version)[1] == f"{newest}\n", "its Python is gone"


def test_a_lock_that_fails_leaves_the_old_environment_and_a_call_that_works_replaces_it(clone):
    clone.run("true")
    clone.require("tiny==1 ; python_version > '3'", checksum="0" * 64)
    assert clone.run("tiny")[:2] == (1, "")
    assert [path.name for path in clone.root.glob(".venv*")] == [".venv"]
    clone.require("tiny==1 ; python_version > '3'")
    assert clone.run("tiny")[:2] == (0, "tiny works\n")


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_any_time_it_leaves_all_or_nothing(clone, kind):
    for delay in range(12):
        shutil.rmtree(clone.venv, ignore_errors=True)
        process = clone.start("true")
        time.sleep(0.02 + 0.08 * delay)
        os.killpg(process.pid, kind)
        process.communicate(timeout=60)
        assert not clone.venv.exists() or clone.run("tiny") == (0, "tiny works\n", "")
        assert kind == signal.SIGKILL or not list(clone.root.glob(".venv.new-*"))
    shutil.rmtree(clone.venv, ignore_errors=True)
    assert clone.run("tiny")[:2] == (0, "tiny works\n")
    assert not list(clone.root.glob(".venv.new-*")), "what a killed call has left is removed"


def test_two_calls_at_once_do_not_disturb_each_other(clone):
    calls = [clone.start("tiny") for _ in range(3)]
    assert [call.communicate(timeout=60)[0] for call in calls] == ["tiny works\n"] * 3
    assert [path.name for path in clone.root.glob(".venv*")] == [".venv"]
