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
    if PYTHON.exists() and DONE.is_file() and DONE.read_text() == wanted():
        return
    print("installing docs/requirements.lock (about 40 MB to download, once)", flush=True)
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


def build() -> Path:
    """Build all pages anew, and put them in the place of the old ones when they are whole."""
    new, html = DOCS / "_build" / "new", DOCS / "_build" / "html"
    print(f"building {html}", flush=True)
    shutil.rmtree(new, ignore_errors=True)
    command = [str(PYTHON), "-m", "sphinx", "-W", "--keep-going", "-E", "-q"]
    command += ["-d", str(DOCS / "_build" / "doctrees"), str(DOCS), str(new)]
    if subprocess.run(command, check=False).returncode:
        sys.exit("error: the site has not been built; the lines above say why")
    shutil.rmtree(html, ignore_errors=True)
    new.rename(html)
    return html


def main() -> None:
    """Install, then build."""
    try:
        install()
        print(f"open {build() / 'index.html'}")
    except OSError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
