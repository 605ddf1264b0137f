"""setup_env.sh: which Python it takes, what it installs when, and what it says when it cannot.

Most tests run a copy of the script on a controlled PATH, where `python3.13` and the like are shell
scripts that answer as a Python would and only write down what pip was asked for. One test makes a
real environment from a tiny package. The last tests compare the requirements with the locks.
"""

import base64
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = (
    "awk bash cat cksum cmp cp date dirname env grep mkdir mktemp mv rm rmdir sed tail sleep true"
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="setup_env.sh is a bash script")

# A Python that does what setup_env.sh asks of one. In the folder $FAKES: `calls` collects what was
# asked for; while `hold-pip` or `hold-venv` exists, that step goes on; `pip-error` makes pip fail.
FAKE_PYTHON = """#!/usr/bin/env bash
version={version} asked="$*"
hold() {{ while [ -e "$FAKES/hold-$1" ]; do sleep 0.05; done; }}
case "$asked" in
  *fcntl*) exec "{real_python}" "$@" ;;
  "-I -c "*) echo "$version $0" ;;
  "-ISc "*) echo "${{version%.*}}" ;;
  "-I -m venv "*)
    echo "venv $version" >>"$FAKES/calls"
    for folder; do :; done # the last argument
    mkdir -p "$folder/bin" "$folder/lib/python3.13/site-packages"
    hold venv
    cp "$0" "$folder/bin/python"
    ;;
  "-I -m ensurepip"*) ;;
  *"pip "*" --version") echo "pip 24" ;;
  *"pip "*" list "*) printf 'nvidia-nccl-cu12==2.32.3\\nnumpy==2.2.6\\n' ;;
  *"pip "*" install "*uv==*)
    echo "uv" >>"$FAKES/calls"
    cp "$FAKES/uv" "${{0%/*}}/uv"
    ;;
  *"pip "*)
    echo "pip${{asked#*--no-input}} TMPDIR=$TMPDIR" >>"$FAKES/calls"
    hold pip
    if [ -e "$FAKES/pip-error" ]; then cat "$FAKES/pip-error" >&2; exit 1; fi
    ;;
  *) echo "python $*" ;;
esac
"""


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Repository:
    """A folder with setup_env.sh and tiny requirements, and a PATH of our own making."""

    def __init__(self, tmp_path: Path):
        self.root = tmp_path / "a repository"
        self.bin = tmp_path / "bin"
        self.fakes = tmp_path / "fakes"
        for folder in (self.root, self.bin, self.fakes):
            folder.mkdir()
        shutil.copy(ROOT / "setup_env.sh", self.root)
        (self.root / "docs").mkdir()
        (self.root / "docs" / "requirements.txt").write_text("sphinx==8.1.3  # why\n")
        for tool in TOOLS.split():
            (self.bin / tool).symlink_to(shutil.which(tool))
        script(self.bin / "uname", "#!/usr/bin/env bash\necho Linux\n")
        self.disk(free_mb=100_000)
        self.require("tensorflow==2.21.0  # why")
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(tmp_path),
            "FAKES": str(self.fakes),
            "PIP_CONFIG_FILE": os.devnull,
        }

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def stamp(self) -> Path:
        return self.venv / "setup_env.installed"

    def disk(self, free_mb: int) -> None:
        table = f"Filesystem Blocks Used Available Capacity Mounted\n/dev/x 9 9 {free_mb}000 9% /"
        script(self.bin / "df", f"#!/usr/bin/env bash\necho '{table}'\n")

    def require(self, requirements: str, lock: str | None = None) -> None:
        """Writes requirements.txt and locks that belong to it."""
        (self.root / "requirements.txt").write_text(requirements + "\n")
        said = re.sub(r" *#.*", "", requirements) + "\n"
        checksum = subprocess.run(["cksum"], input=said, capture_output=True, text=True).stdout
        for name in ("requirements.lock", "requirements-cuda.lock"):
            text = f"# requirements.txt: checksum {checksum}{lock or said}"
            (self.root / name).write_text(text)

    def python(self, version: str, name: str | None = None, folder: Path | None = None) -> Path:
        path = (folder or self.bin) / (name or "python" + version.rsplit(".", 1)[0])
        script(path, FAKE_PYTHON.format(version=version, real_python=sys.executable))
        return path

    def start(self, *arguments: str, cwd: Path | None = None, **environment: str):
        return subprocess.Popen(
            [self.root / "setup_env.sh", *arguments],
            env=self.environment | environment,
            cwd=cwd or self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **keywords):
        process = self.start(*arguments, **keywords)
        output, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def calls(self) -> list[str]:
        """What the fake Pythons were asked for since the last call of this."""
        path = self.fakes / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def hold(self, step: str) -> Path:
        path = self.fakes / f"hold-{step}"
        path.touch()
        return path

    def wait_for_call(self, text: str) -> None:
        path = self.fakes / "calls"
        for _ in range(600):
            if path.exists() and text in path.read_text():
                return
            time.sleep(0.05)
        pytest.fail(f"no call of {text}")


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


def the_error(result: subprocess.CompletedProcess) -> str:
    """The one line that a failed run ends with."""
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors == result.stderr.splitlines()[-1:]
    return errors[0]


# Which Python


def test_the_newest_suitable_python_is_taken(repository):
    repository.python("3.10.13")
    repository.python("3.12.1")
    repository.python("3.11.7", name="python3")
    result = repository.run("true")
    assert result.returncode == 0, result.stderr
    assert repository.calls()[0] == "venv 3.12.1"


def test_a_plain_python3_counts_when_it_is_the_newest(repository):
    repository.python("3.11.7")
    repository.python("3.13.2", name="python3")
    repository.run("true")
    assert repository.calls()[0] == "venv 3.13.2"


def test_pythons_of_pyenv_are_found_and_shims_that_do_not_run_are_skipped(repository, tmp_path):
    repository.python("3.11.7")
    script(repository.bin / "python3.13", "#!/usr/bin/env bash\necho not set >&2\nexit 127\n")
    repository.python("3.12.4", folder=tmp_path / ".pyenv/versions/3.12.4/bin")
    result = repository.run("true")
    assert repository.calls()[0] == "venv 3.12.4"
    assert "not set" not in result.stderr


def test_the_variable_python_chooses(repository, tmp_path):
    repository.python("3.13.0")
    older = repository.python("3.10.2", name="my python", folder=tmp_path)
    repository.run("true", PYTHON=str(older))
    assert repository.calls()[0] == "venv 3.10.2"
    assert repository.run("true").returncode == 0, "the choice is kept"
    assert repository.calls() == []

    result = repository.run("true", PYTHON=str(tmp_path / "nowhere"))
    assert the_error(result) == f"error: PYTHON={tmp_path / 'nowhere'} does not run"


def test_another_chosen_python_keeps_the_old_environment_aside(repository, tmp_path):
    repository.python("3.13.0")
    repository.run("true")
    (repository.venv / "mine").touch()
    repository.calls()
    older = repository.python("3.10.2", folder=tmp_path)
    result = repository.run("true", PYTHON=str(older))
    assert repository.calls()[0] == "venv 3.10.2"
    (aside,) = repository.root.glob(".venv.old-*")
    assert (aside / "mine").exists()
    assert f"it is kept as {aside.name}" in result.stderr


def test_no_suitable_python_is_one_line(repository):
    script(repository.bin / "python3", "#!/usr/bin/env bash\necho is Python 3.9.2\nexit 1\n")
    result = repository.run("true")
    assert "no Python 3.10 to 3.13 found" in the_error(result)
    assert "PYTHON=" in result.stderr
    assert not repository.venv.exists()


def test_a_python_without_venv_is_passed_over_and_named_only_when_it_is_the_last(repository):
    said = "has no venv module (Debian, Ubuntu: sudo apt install python3.13-venv)"
    script(repository.bin / "python3.13", f"#!/usr/bin/env bash\necho '{said}'\nexit 3\n")
    assert f"{repository.bin / 'python3.13'} {said}" in the_error(repository.run("true"))
    repository.python("3.11.7")
    assert repository.run("true").returncode == 0
    assert repository.calls()[0] == "venv 3.11.7"


def test_the_question_put_to_each_python_is_understood_by_a_real_one(repository):
    """The fake Pythons do not run the script's Python code; this one does."""
    source = (ROOT / "setup_env.sh").read_text()
    probe = re.search(r"PROBE='(.*?)'\n", source, re.DOTALL).group(1)

    def ask(first: int, last: int) -> tuple[int, str]:
        command = [sys.executable, "-I", "-c", probe, str(first), str(last)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.stderr == ""
        return result.returncode, result.stdout.strip()

    minor = sys.version_info.minor
    version = sys.version.split()[0]
    status, answer = ask(minor, minor)
    assert (status, answer.split(" ", 1)[0]) == (0, version)
    assert Path(answer.split(" ", 1)[1]).exists()
    assert ask(minor + 1, minor + 2)[0] == 1
    assert ask(minor - 2, minor - 1)[1].startswith(f"is Python {version}")


# The command


def test_arguments_and_exit_status_are_passed_on_and_the_folder_is_kept(repository, tmp_path):
    repository.python("3.13.0")
    command = 'echo "[$1][$2] $PWD $VIRTUAL_ENV ${PATH%%:*}"; exit 42'
    result = repository.run("bash", "-c", command, "-", "two words", "", cwd=tmp_path)
    assert result.returncode == 42
    venv = repository.venv.resolve()
    assert result.stdout == f"[two words][] {tmp_path} {venv} {venv}/bin\n"


def test_options_after_the_command_belong_to_it(repository):
    repository.python("3.13.0")
    assert repository.run("python", "--gpu", "-h").stdout == "python --gpu -h\n"
    assert repository.run().stdout.count("./setup_env.sh python examples/") == 1


def test_pip_settings_and_tmpdir_of_the_user_reach_the_command(repository, tmp_path):
    repository.python("3.13.0")
    command = 'echo "$TMPDIR $PIP_TARGET"'
    result = repository.run("bash", "-c", command, TMPDIR=str(tmp_path), PIP_TARGET="/elsewhere")
    assert result.stdout == f"{tmp_path} /elsewhere\n"
    assert f"TMPDIR={repository.venv.resolve()}" in repository.calls()[1]


def test_an_unknown_option_is_a_usage_error(repository):
    result = repository.run("--gpus", "true")
    assert result.returncode == 2
    assert result.stderr == "error: unknown option --gpus; ./setup_env.sh --help lists them\n"
    assert not repository.venv.exists()


def test_help_needs_no_python(repository):
    result = repository.run("--help")
    assert result.returncode == 0
    assert result.stdout.startswith("usage: ./setup_env.sh")


def test_sourcing_it_leaves_the_shell_alone(repository):
    result = subprocess.run(
        ["bash", "-c", f'source "{repository.root}/setup_env.sh"; false; echo "alive $-"'],
        capture_output=True,
        text=True,
    )
    assert "alive" in result.stdout
    assert "e" not in result.stdout.split()[1], "set -e must not leak out"
    assert "do not source it" in result.stderr


# When it installs what


def test_the_second_run_does_nothing(repository):
    repository.python("3.13.0")
    repository.run("true")
    assert len(repository.calls()) == 2
    before = repository.stamp.stat()
    result = repository.run("true")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert repository.calls() == []
    after = repository.stamp.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_pip_is_held_to_the_hashes_and_to_wheels(repository):
    repository.python("3.13.0")
    repository.run("true")
    _, pip = repository.calls()
    assert pip.startswith("pip install --require-hashes --only-binary :all: -r ")
    assert f"{repository.root}/requirements.lock " in pip


def test_changed_requirements_are_installed_once_their_lock_is_renewed(repository):
    repository.python("3.13.0")
    repository.run("true")
    repository.calls()
    requirements = repository.root / "requirements.txt"
    requirements.write_text("tensorflow==2.21.0  # why\npandas==2.2.3  # why\n")
    assert "./setup_env.sh --lock renews it" in the_error(repository.run("true"))

    repository.require(requirements.read_text().strip())
    assert repository.run("true").returncode == 0
    assert [call[:4] for call in repository.calls()] == ["pip "]


def test_an_update_that_failed_does_not_pass_for_whole_when_the_old_lock_returns(repository):
    repository.python("3.13.0")
    repository.run("true")
    repository.require("tensorflow==2.22.0  # why")
    (repository.fakes / "pip-error").write_text("ERROR: something\n")
    the_error(repository.run("true"))
    (repository.fakes / "pip-error").unlink()
    repository.calls()
    repository.require("tensorflow==2.21.0  # why")
    repository.run("true")
    assert len(repository.calls()) == 1


def test_an_nvidia_gpu_picks_the_cuda_lock_and_flags_override(repository):
    repository.python("3.13.0")
    gpu = "#!/usr/bin/env bash\necho 'GPU 0: NVIDIA H100'\necho 'GPU 1: NVIDIA H100'\n"
    script(repository.bin / "nvidia-smi", gpu)
    repository.run("true")
    assert "requirements-cuda.lock" in repository.calls()[1]
    assert repository.run("--gpu", "true").returncode == 0
    assert repository.calls() == []

    repository.run("--cpu", "true")
    uninstall, install = repository.calls()
    assert uninstall.startswith("pip uninstall --yes nvidia-nccl-cu12 TMPDIR=")
    assert "requirements.lock" in install
    repository.run("true")
    assert repository.calls() == [], "the choice is kept"


def test_without_a_gpu_the_plain_lock_is_taken(repository):
    repository.python("3.13.0")
    script(
        repository.bin / "nvidia-smi", "#!/usr/bin/env bash\necho NVIDIA-SMI has failed\nexit 9\n"
    )
    repository.run("true")
    assert "requirements.lock" in repository.calls()[1]
    repository.run("--gpu", "true")
    assert "requirements-cuda.lock" in repository.calls()[0]


# Mending


@pytest.mark.parametrize("step", ["venv", "pip"])
def test_a_run_killed_half_way_is_mended(repository, step):
    repository.python("3.13.0")
    held = repository.hold(step)
    process = repository.start("true")
    repository.wait_for_call(step)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    held.unlink()
    assert not repository.stamp.exists()
    repository.calls()

    result = repository.run("python", "works")
    assert result.stdout == "python works\n"
    expected = ["venv", "pip"] if step == "venv" else ["pip"]
    assert [call.split()[0] for call in repository.calls()] == expected
    assert repository.stamp.exists()
    assert not list(repository.root.glob(".venv.old-*")), "it was ours, there is nothing to keep"


def test_ctrl_c_stops_it_with_130(repository):
    repository.python("3.13.0")
    held = repository.hold("pip")
    process = repository.start("true")
    repository.wait_for_call("pip")
    os.killpg(process.pid, signal.SIGINT)
    held.unlink()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.endswith("stopped; the next call goes on from here\n")
    assert not repository.stamp.exists()
    assert repository.run("true").returncode == 0


def test_a_second_run_waits_for_the_first(repository):
    repository.python("3.13.0")
    held = repository.hold("pip")
    first = repository.start("true")
    repository.wait_for_call("pip")
    second = repository.start("true")
    assert "waiting" in second.stderr.readline()
    held.unlink()
    assert (first.wait(30), second.wait(30)) == (0, 0)
    assert [call.split()[0] for call in repository.calls()] == ["venv", "pip"]
    for process in (first, second):
        process.communicate()


def test_a_pip_that_outlives_its_killed_script_is_waited_for(repository):
    repository.python("3.13.0")
    held = repository.hold("pip")
    first = repository.start("true")
    repository.wait_for_call("pip")
    os.kill(first.pid, signal.SIGKILL)
    second = repository.start("true")
    assert "waiting" in second.stderr.readline()
    held.unlink()
    assert second.wait(30) == 0
    assert [call.split()[0] for call in repository.calls()] == ["venv", "pip", "pip"]
    for process in (first, second):
        process.communicate()


def test_an_environment_whose_python_is_gone_is_kept_aside(repository):
    repository.python("3.13.0")
    repository.run("true")
    (repository.venv / "mine").touch()
    (repository.venv / "bin/python").unlink()
    (repository.venv / "bin/python").symlink_to("/nowhere/python3.13")
    repository.calls()
    result = repository.run("true")
    assert result.returncode == 0
    assert "its Python does not run" in result.stderr
    assert len(repository.calls()) == 2
    (aside,) = repository.root.glob(".venv.old-*")
    assert (aside / "mine").exists()


def test_a_moved_repository_gets_a_new_environment(repository, tmp_path):
    repository.python("3.13.0")
    repository.run("true")
    repository.calls()
    repository.root = repository.root.rename(tmp_path / "moved")
    result = repository.run("true")
    assert "it was made for" in result.stderr
    assert [call.split()[0] for call in repository.calls()] == ["venv", "pip"]


def test_an_environment_the_user_made_is_completed_not_replaced(repository):
    repository.python("3.13.0")
    repository.python("3.12.0", name="python", folder=repository.venv / "bin")
    (repository.venv / "mine").touch()
    assert repository.run("true").returncode == 0
    assert [call.split()[0] for call in repository.calls()] == ["pip"]
    assert (repository.venv / "mine").exists()


# What can go wrong

OFFLINE = """\
WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': /simple/a/
ERROR: Could not find a version that satisfies the requirement a==1 (from versions: none)
ERROR: No matching distribution found for a==1
"""
WRONG_HASH = """\
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.
    a==1:
        Expected sha256 00
             Got        11
"""


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (OFFLINE, "no network, or the package index does not answer"),
        (
            "ERROR: Could not install packages: [Errno 28] No space left on device\n",
            "the disk is full",
        ),
        (WRONG_HASH, "is not the one that requirements.lock names"),
        (
            "Collecting a\nERROR: No matching distribution found for a==1\n\n[notice] a new pip\n",
            ": No matching distribution found for a==1 [log: ",
        ),
        ("Segmentation fault\n", ": Segmentation fault [log: "),
    ],
    ids=["offline", "disk", "hash", "other", "unknown"],
)
def test_a_failed_installation_is_one_line_and_a_later_run_mends_it(repository, log, expected):
    repository.python("3.13.0")
    (repository.fakes / "pip-error").write_text(log)
    error = the_error(repository.run("true"))
    assert expected in error
    assert str(repository.venv.resolve() / "setup_env.log") in error
    assert not repository.stamp.exists()

    (repository.fakes / "pip-error").unlink()
    assert repository.run("true").returncode == 0
    assert repository.stamp.exists()


def test_a_disk_without_room_is_noticed_before_the_download(repository):
    repository.python("3.13.0")
    repository.disk(free_mb=1200)
    assert "1171 MB are free in" in the_error(repository.run("true"))
    assert not repository.venv.exists()
    assert repository.calls() == []


def test_a_missing_lock_is_one_line(repository):
    repository.python("3.13.0")
    (repository.root / "requirements.lock").unlink()
    assert "requirements.lock is missing" in the_error(repository.run("true"))


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_may_not_be_written_is_one_line(repository):
    repository.python("3.13.0")
    repository.root.chmod(0o555)
    try:
        assert "cannot write to" in the_error(repository.run("true"))
    finally:
        repository.root.chmod(0o755)


# With a real Python


def tiny_wheel(folder: Path) -> str:
    """Writes a package with a command and returns its line for a lock."""
    files = {
        "tiny.py": "def main():\n    print('tiny works')\n",
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n",
        "tiny-1.0.dist-info/entry_points.txt": "[console_scripts]\ntiny = tiny:main\n",
    }
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
        record += f"{name},sha256={digest.rstrip('=')},{len(text)}\n"
    files["tiny-1.0.dist-info/RECORD"] = record + "tiny-1.0.dist-info/RECORD,,\n"
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return f"tiny==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def test_a_real_environment_from_a_tiny_package(repository, tmp_path):
    lock = tiny_wheel(tmp_path)
    wrong = re.sub("sha256:....", "sha256:0000", lock)
    settings = {"PYTHON": sys.executable, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": tmp_path.as_uri()}
    settings |= {"PIP_TARGET": str(tmp_path / "elsewhere"), "PYTHONPATH": str(tmp_path)}

    repository.require("tiny==1.0", lock=wrong)
    assert "is not the one that requirements.lock names" in the_error(
        repository.run("tiny", **settings)
    )
    assert not repository.stamp.exists()

    repository.require("tiny==1.0", lock=lock)
    result = repository.run("tiny", **settings)
    assert result.stdout == "tiny works\n", result.stderr
    assert repository.stamp.exists()

    # As a pip killed between a package's files and its commands leaves it.
    (information,) = repository.venv.glob("lib/python3.*/site-packages/tiny-1.0.dist-info")
    (information / "INSTALLER").unlink()
    (information.parent / "~iny").mkdir()
    (repository.venv / "bin/tiny").unlink()
    repository.stamp.unlink()
    result = repository.run("tiny", **settings)
    assert result.stdout == "tiny works\n", result.stderr
    assert not (information.parent / "~iny").exists()


# The requirements and their locks

FAKE_UV = """#!/usr/bin/env bash
while [ "$1" != --output-file ]; do shift; done
if [ -e "$FAKES/uv-error" ]; then echo "No solution found" >&2; exit 1; fi
echo "resolved from:" >>"$2"
cat "$3" >>"$2"
"""


def test_lock_renews_all_locks_or_none(repository):
    repository.python("3.13.0")
    script(repository.fakes / "uv", FAKE_UV)
    (repository.root / "requirements.txt").write_text(
        "tensorflow==2.22.0  # why\nnumpy==3  # why\n"
    )
    old = {name: (repository.root / name).read_text() for name in LOCKS}

    (repository.fakes / "uv-error").touch()
    assert "the locks are as they were" in the_error(repository.run("--lock"))
    assert old == {name: (repository.root / name).read_text() for name in LOCKS}

    (repository.fakes / "uv-error").unlink()
    assert repository.run("--lock").returncode == 0
    new = {name: (repository.root / name).read_text() for name in LOCKS}
    assert new["requirements.lock"].count("tensorflow==2.22.0") == 1
    site = (repository.root / "docs" / "requirements.lock").read_text()
    assert "sphinx==8.1.3" in site
    assert "tensorflow" not in site, "the site is built without it"
    assert 'tensorflow[and-cuda]==2.22.0 ; sys_platform == "linux"' in new["requirements-cuda.lock"]
    assert list(repository.root.glob(".venv*")) == []
    assert repository.run("true").returncode == 0, "the new locks fit requirements.txt"


LOCKS = ("requirements.lock", "requirements-cuda.lock")
PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)")


ALL_LOCKS = (*LOCKS, "docs/requirements.lock")


def direct_requirements(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    pins = [PIN.match(line) for line in lines if line and not line.startswith("#")]
    assert all(pins), "each requirement names one exact version"
    return {pin[1]: pin[2] for pin in pins}


def locked(name: str) -> dict[str, list[str]]:
    """The lock's entries, "name==version": the lines of each."""
    entries: dict[str, list[str]] = {}
    for line in (ROOT / name).read_text().splitlines():
        if PIN.match(line):
            entries[PIN.match(line)[0]] = lines = []
        elif not line.lstrip().startswith("#"):
            lines.append(line)
    return entries


@pytest.mark.parametrize("name", ["requirements.txt", "docs/requirements.txt"])
def test_each_requirement_says_why_it_is_there(name):
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"\S+==\S+( ; [^#]+)? +# \w.{8,}", line), line


@pytest.mark.parametrize("name", ALL_LOCKS)
def test_a_lock_holds_all_requirements_and_a_hash_for_everything(name):
    entries = locked(name)
    named = direct_requirements("docs/requirements.txt" if "docs" in name else "requirements.txt")
    assert {f"{package}=={version}" for package, version in named.items()} <= set(entries)
    for entry, lines in entries.items():
        assert lines, entry
        for line in lines:
            assert re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line), entry


@pytest.mark.parametrize("name", ALL_LOCKS)
def test_a_lock_names_no_place_to_download_from(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"://|--index|--extra-index|find-links|file:|^/| @ ", text, re.MULTILINE)
    assert "./setup_env.sh --lock" in text


def test_the_two_locks_differ_only_in_the_gpu_libraries():
    plain, cuda = (locked(name) for name in LOCKS)
    assert set(plain) <= set(cuda)
    assert {entry.split("-")[0] for entry in set(cuda) - set(plain)} == {"nvidia"}


def test_the_locks_belong_to_requirements_txt():
    text = re.sub(r" *#.*", "", (ROOT / "requirements.txt").read_text())
    said = "".join(line + "\n" for line in text.splitlines() if line)
    checksum = subprocess.run(["cksum"], input=said, capture_output=True, text=True).stdout.strip()
    for name in LOCKS:
        first = (ROOT / name).read_text().splitlines()[0]
        assert first == f"# requirements.txt: checksum {checksum}"


def test_the_pythons_are_those_of_pyproject():
    source = (ROOT / "setup_env.sh").read_text()
    first, last = re.search(r"FIRST_MINOR=(\d+) LAST_MINOR=(\d+)", source).groups()
    required = f'requires-python = ">=3.{first},<3.{int(last) + 1}"'
    assert required in (ROOT / "pyproject.toml").read_text()
