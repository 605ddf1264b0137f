"""Build the site: the notes, and the examples with prose beside code.

    python docs/build.py

writes docs/_build/html/index.html, which any browser opens. The packages that it needs,
docs/requirements.lock, are installed once, into an environment of their own, .venv.docs; from then
on no network is needed. A warning is an error, so that no link leads nowhere.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
SETUP = [DOCS.parent / "setup_env.sh", "--docs"]  # makes .venv.docs and runs a command there


def in_environment(*command: str | Path) -> bool:
    """Run a command in .venv.docs, with the Python that runs this; return whether it succeeded."""
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run([*SETUP, *command], env=environment, check=False).returncode == 0


def build() -> Path:
    """Build all pages anew and, when they are whole, put them in the place of the old ones."""
    if sys.platform == "win32":
        sys.exit("error: the site is built on Linux or macOS, or in WSL 2")
    if not in_environment("true"):
        sys.exit(1)  # setup_env.sh has said why
    new, html = DOCS / "_build" / "new", DOCS / "_build" / "html"
    print(f"building {html}", flush=True)
    shutil.rmtree(new, ignore_errors=True)
    sphinx = ["python", "-m", "sphinx", "-W", "--keep-going", "-E", "-q"]
    if not in_environment(*sphinx, "-d", DOCS / "_build" / "doctrees", DOCS, new):
        sys.exit("error: the site has not been built; the lines above say why")
    shutil.rmtree(html, ignore_errors=True)
    new.rename(html)
    return html


def main() -> None:
    """Build, and say where."""
    try:
        print(f"open {build() / 'index.html'}")
    except OSError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
