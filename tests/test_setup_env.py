"""setup_env.sh with the real uv, in folders whose lock names one tiny package beside them."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = (ROOT / "setup_env.sh").read_text()
OLDER = next(Path.home().glob(".pyenv/versions/3.11.*/bin/python3"), shutil.which("python3.11"))
QUIET = {"UV_NO_INDEX": "1", "UV_HTTP_RETRIES": "2", "UV_PYTHON_DOWNLOADS": "never"}
NARROWER = "tiny==1 ; python_version > '3'"  # another lock that installs the same
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="setup_env.sh is a bash script")


class Clone:
    def __init__(self, folder: Path, cache: Path):
        self.root = folder / "a clone"
        self.root.mkdir()
        shutil.copy(ROOT / "setup_env.sh", self.root)
        if (ROOT / ".uv").exists():  # else uv is on PATH
            (self.root / ".uv").symlink_to(ROOT / ".uv")
        wheel, about = folder / "tiny-1-py3-none-any.whl", "tiny-1.dist-info"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr("tiny.py", "def main():\n    print('tiny works')\n")
            file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
            file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
            file.writestr(f"{about}/entry_points.txt", "[console_scripts]\ntiny = tiny:main\n")
            file.writestr(f"{about}/RECORD", "")
        self.environment = os.environ | {"UV_CACHE_DIR": str(cache), "UV_FIND_LINKS": str(folder)}
        self.environment |= {"PYTHON": sys.executable, **QUIET}
        self.require("tiny==1", hashlib.sha256(wheel.read_bytes()).hexdigest())

    def require(self, line: str, checksum: str) -> None:
        (self.root / "requirements.txt").write_text(f"# why\n{line}  # why\n")
        said = subprocess.run(["cksum"], input=f"{line}\n", capture_output=True, text=True).stdout
        lock = f"# requirements.txt: checksum {said}{line} --hash=sha256:{checksum}\n"
        (self.root / "requirements.lock").write_text(lock)
        self.checksum = checksum

    def start(self, *command: str, **environment: str) -> subprocess.Popen:
        command, pipe = (self.root / "setup_env.sh", *command), subprocess.PIPE
        pipes = {"stdout": pipe, "stderr": pipe, "text": True, "start_new_session": True}
        return subprocess.Popen(command, env=self.environment | environment, **pipes)

    def run(self, *command: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*command, **environment)
        output, errors = process.communicate(timeout=120)
        return process.returncode, output, errors


@pytest.fixture
def clone(tmp_path, tmp_path_factory):
    return Clone(tmp_path, tmp_path_factory.getbasetemp() / "uv")


def test_the_command_runs_in_an_environment_that_is_made_once_and_may_be_moved(clone, tmp_path):
    assert clone.run("tiny")[:2] == (0, "tiny works\n")
    say = 'echo "[$1][$2] $PWD $VIRTUAL_ENV"; exit 42'
    said = f"[two words][--gpu] {Path.cwd()} {clone.root}/.venv\n"
    assert clone.run("bash", "-c", say, "-", "two words", "--gpu") == (42, said, "")
    clone.root = clone.root.rename(tmp_path / "moved")
    assert clone.run("tiny") == (0, "tiny works\n", "")
    activate = f'source "{clone.root}/.venv/bin/activate" && tiny'
    assert subprocess.check_output(["bash", "-c", activate]) == b"tiny works\n"
    (clone.root / "requirements.txt").write_text("another==1  # why\n")
    assert "requirements.txt; ./setup_env.sh --lock renews it" in clone.run("tiny")[2]


@pytest.mark.skipif(OLDER is None, reason="needs Python 3.11")
def test_the_newest_python_is_taken_unless_another_is_chosen(clone):
    version = ("python", "-c", "import sys; print(sys.version_info[1])")
    clone.environment["PYTHON"] = ""
    assert sys.version_info[1] <= (newest := int(clone.run(*version)[1])) <= 13
    assert clone.run(*version, PYTHON=str(OLDER))[1] == "11\n"
    assert clone.run(*version)[1:] == ("11\n", ""), "the choice is kept"
    clone.require(NARROWER, clone.checksum)
    assert clone.run(*version)[1] == "11\n", "also when the lock changes"
    (clone.root / ".venv/bin/python").unlink()
    assert clone.run(*version)[1] == f"{newest}\n", "its Python is gone"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_any_time_it_leaves_all_or_nothing(clone, kind):
    for delay in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4):
        shutil.rmtree(clone.root / ".venv", ignore_errors=True)
        process = clone.start("true")
        time.sleep(delay)
        os.killpg(process.pid, kind)
        process.communicate(timeout=60)
        assert not (clone.root / ".venv").exists() or clone.run("tiny")[1:] == ("tiny works\n", "")
    clone.require(NARROWER, clone.checksum)
    calls = [clone.start("tiny") for _ in range(3)]  # at the same time
    assert [call.communicate(timeout=60)[0] for call in calls] == ["tiny works\n"] * 3
    assert not list(clone.root.glob(".venv.new-*")), "what was left has been removed"


REFUSED = {"UV_NO_INDEX": "0", "UV_FIND_LINKS": "", "PIP_INDEX_URL": "http://127.0.0.1:9"}
NO_PYTHON = {"PYTHON": "", "UV_PYTHON_PREFERENCE": "only-managed", "UV_PYTHON_INSTALL_DIR": "/-"}
FAULTS = [
    ("requirements.lock cannot be installed, offline?: Request failed", REFUSED),
    ("no Python 3.11 to 3.13 is found (PYTHON=... names one), and none can be", NO_PYTHON),
    ("PYTHON=/bin/sh is not Python 3.11 to 3.13", {"PYTHON": "/bin/sh"}),
    ("Hash mismatch for `tiny==1`", {"checksum": "0" * 64}),
    ("disk full: ", {"mount": "remount,size=100k"}),
    ("cannot write to ", {"mount": "remount,ro"}),
]


@pytest.mark.parametrize(("expected", "fault"), FAULTS, ids=[expected for expected, _ in FAULTS])
def test_what_goes_wrong_is_told_in_one_line(clone, request, expected, fault):
    clone.require("tiny==1", fault.get("checksum", clone.checksum))
    if "mount" in fault:
        (disk := clone.root / "disk").mkdir()
        if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "none", disk]).returncode:
            pytest.skip("needs to be root, to mount a small disk")
        request.addfinalizer(lambda: subprocess.run(["umount", disk], check=True))
        clone = Clone(disk, clone.root / "cache")
        subprocess.run(["mount", "-o", fault["mount"], disk], check=True)
    status, output, errors = clone.run("true", **fault)
    assert (status, output, errors.count("error: ")) == (1, "", 1)
    assert re.search(f"(?m)^error: .*{re.escape(expected)}.*\n\\Z", errors), errors
    assert list(clone.root.glob(".venv*")) == []


def test_uv_is_fetched_and_its_checksum_verified(clone, tmp_path):
    (clone.root / ".uv").unlink(missing_ok=True)
    (tmp_path / "uv").symlink_to("/bin/true")  # has no version: passed over as an old one is
    clone.environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    sha256 = re.search(f"{os.uname()[0]} {os.uname()[4]}: (\\w+)", SCRIPT)[1]
    page = f'data:,<a href="file://{__file__}%23sha256={sha256}">'
    assert "wrong checksum: file://" in clone.run("tiny", UV_DEFAULT_INDEX=page)[2]
    _, output, errors = clone.run("tiny")
    assert output == "tiny works\n" or "urlopen error" in errors, "needs the network"


def test_the_second_lock_has_what_a_gpu_needs_beside_the_first():
    locks = [(ROOT / name).read_text() for name in ("requirements.lock", "requirements-cuda.lock")]
    first, second = (set(re.findall(r"(?m)^([\w-]+)==", lock)) for lock in locks)
    extra = set(re.findall(r"nvidia-[\w-]+", str(metadata.requires("tensorflow"))))
    assert extra and extra <= second and not first & second
