"""Build the site: the notes, and the examples with prose beside code.

    python docs/build.py

writes docs/_build/html/index.html, which any browser opens. The packages that it needs,
docs/requirements.lock, are installed once, into an environment of their own, .venv.docs; from then
on no network is needed. A warning is an error, so that no link leads nowhere.
"""

import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ENVIRONMENT = DOCS.parent / ".venv.docs"
PYTHON = ENVIRONMENT / "bin" / "python"
LOCK = DOCS / "requirements.lock"
DONE = ENVIRONMENT / "installed"  # what was installed, written last


def wanted() -> str:
    """Return what the environment must have been made from."""
    return f"{ENVIRONMENT}, Python {sys.version}\n{LOCK.read_text()}"


def install() -> None:
    """Make the environment, unless it is there and up to date."""
    if DONE.is_file() and DONE.read_text() == wanted():
        return
    print("installing docs/requirements.lock (about 35 MB to download, once)", flush=True)
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    pip = [str(PYTHON), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    pip += ["--quiet", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)]
    for command in ([sys.executable, "-I", "-m", "venv", str(ENVIRONMENT)], pip):
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            output = (process.stderr or process.stdout).strip() or "no reason given"
            sys.exit(f"error: docs/requirements.lock could not be installed: "
                     f"{output.splitlines()[-1]}")  # fmt: skip
    DONE.write_text(wanted())


def main() -> None:
    """Install, then build."""
    try:
        install()
        command = [str(PYTHON), "-m", "sphinx", "-W", "--keep-going", "-E", "-q"]
        html = DOCS / "_build" / "html"
        if subprocess.run([*command, str(DOCS), str(html)], check=False).returncode:
            sys.exit("error: the site has not been built; the warnings above say why")
    except OSError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"open {html / 'index.html'}")


if __name__ == "__main__":
    main()
