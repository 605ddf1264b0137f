"""Make all figures and tables of the notes again, and the figures of recorded runs.

    python docs/figures                     # all of them
    python docs/figures features training   # those of some scripts

writes docs/images/ and the notes' tables. Each script runs in a process of its own, so that no
random choice of one depends on another, and can be run by itself: python docs/figures/features.py.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

HERE = Path(__file__).resolve().parent


def scripts() -> list[str]:
    """Return the names of the scripts, in the order of the alphabet."""
    no_figures = ("__main__", "drawing")
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in no_figures)


def main(argv: list[str] | None = None) -> int:
    """Run the scripts, and return 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python docs/figures", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(scripts())}")
    parser.add_argument("--folder", type=Path, help="instead of docs/")
    args = parser.parse_args(argv)
    unknown = set(args.names) - set(scripts())
    if unknown:
        parser.error(f"no script docs/figures/{min(unknown)}.py")
    where = ["--folder", str(args.folder)] if args.folder else []
    failed = []
    for name in (bar := tqdm(args.names or scripts())):
        bar.set_description(name)
        command = [sys.executable, str(HERE / f"{name}.py"), *where]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        tqdm.write(process.stdout.rstrip())
        if process.returncode:
            failed.append(name)
            tqdm.write(process.stderr.strip() or f"{name}: ended without a reason", sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
