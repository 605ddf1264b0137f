#!/usr/bin/env bash
# Makes the Python environment .venv beside this file, then runs a command in it:
#
#     ./setup_env.sh python examples/example07_vgg16_cifar10.py --data sample
#
# `./setup_env.sh --help` tells the rest. Written for bash 3.2, which is what macOS has.
#
# What is done already stands in .venv itself:
#   setup_env.place      "making" while there is nothing but the bare environment, then its folder
#   setup_env.device     "cpu" or "gpu"
#   setup_env.installed  what was installed; written last: without it the environment is not whole
#   setup_env.log        what pip said

if (return 0 2>/dev/null); then
  echo "error: run ./setup_env.sh, do not source it (afterwards: source .venv/bin/activate)" >&2
  return 2
fi
set -euo pipefail

FIRST_MINOR=10 LAST_MINOR=13 # Python 3.10 to 3.13: what TensorFlow 2.21 supports
UV=uv==0.13.9                # finds versions that suit all these Pythons and systems at once
CPU_MB=3500 GPU_MB=11000     # free disk space that a new environment needs, downloads included
CPU_DOWNLOAD="700 MB" GPU_DOWNLOAD="3.5 GB" # of which this is the download

usage() {
  cat <<EOF
usage: ./setup_env.sh [--cpu | --gpu] [COMMAND ...]
       ./setup_env.sh --lock

Makes the Python environment .venv where it is missing, unfinished or out of date, then runs COMMAND
in it. When there is nothing to do, COMMAND starts at once. Delete .venv to start afresh.

  --gpu   with the libraries for an NVIDIA GPU (Linux)
  --cpu   without them
          Neither: with them if nvidia-smi lists a GPU. The choice is kept for later calls.
  --lock  renew requirements.lock and requirements-cuda.lock from requirements.txt, and the site's
          docs/requirements.lock from docs/requirements.txt

PYTHON=/path/to/python3 ./setup_env.sh   chooses the Python; otherwise the newest suitable one of
those on PATH and in pyenv is taken. pip's own settings (pip.conf, PIP_...) are respected.
EOF
}

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

# --- Which Python ---------------------------------------------------------------------------------

# Run by each candidate. It prints "VERSION PATH" if it will do, else what is wrong with it, with
# exit status 3 if at least the version is right. PATH is the interpreter behind a shim or behind
# another virtual environment, which may vanish.
PROBE='
import platform, sys

def unfit(status, why):
    print(why)
    sys.exit(status)

version = platform.python_version()
if sys.version_info[0] != 3 or not int(sys.argv[1]) <= sys.version_info[1] <= int(sys.argv[2]):
    unfit(1, "is Python %s; TensorFlow needs 3.%s to 3.%s" % (version, sys.argv[1], sys.argv[2]))
if sys.implementation.name != "cpython" or "t" in sys.abiflags:
    unfit(3, "is not the standard CPython, for which TensorFlow is built")
if sys.maxsize < 2**32:
    unfit(3, "is a 32-bit Python; TensorFlow needs a 64-bit one")
here = sys.platform + " " + platform.machine()
if here not in ("linux x86_64", "linux aarch64", "darwin arm64"):
    unfit(3, "is for %s; this needs Linux (x86_64 or aarch64; on Windows inside WSL 2) or "
             "macOS (arm64)" % here)
try:
    import ssl
except ImportError:
    unfit(3, "was built without ssl, so that it cannot download anything")
try:
    import ensurepip, venv
except ImportError:
    unfit(3, "has no venv module (Debian, Ubuntu: sudo apt install python3.%d-venv)"
             % sys.version_info[1])
print(version, getattr(sys, "_base_executable", sys.executable))
'

probe() { # CANDIDATE: sets $answer; its exit status is ours
  answer=$("$1" -I -c "$PROBE" "$FIRST_MINOR" "$LAST_MINOR" 2>/dev/null </dev/null)
}

candidates() { # MINOR: all places where a Python 3.MINOR may be, one a line
  local path
  type -ap "python3.$1" || true
  for path in "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/3.$1."*/bin/"python3.$1"; do
    if [ -x "$path" ]; then printf '%s\n' "$path"; fi
  done
  type -ap python3 python || true
}

find_python() { # sets $python and $python_version, once
  local minor path status unfit=''
  if [ -n "$python" ]; then return; fi
  answer=''
  if [ -n "${PYTHON:-}" ]; then
    probe "$PYTHON" || fail "PYTHON=$PYTHON ${answer:-does not run}"
  else
    minor=$LAST_MINOR
    while [ -z "$answer" ] && [ "$minor" -ge "$FIRST_MINOR" ]; do
      while IFS= read -r path; do
        status=0
        probe "$path" || status=$? # a pyenv shim may be there and not run
        if [ "$status" -eq 3 ]; then unfit=${unfit:-$path $answer}; fi
        case "$status $answer" in "0 3.$minor."*) break ;; esac
        answer=''
      done < <(candidates "$minor")
      minor=$((minor - 1))
    done
  fi
  if [ -z "$answer" ]; then
    unfit=${unfit:-no Python 3.$FIRST_MINOR to 3.$LAST_MINOR found, which TensorFlow needs}
    fail "$unfit; mend that, or name another Python: PYTHON=/path/to/python3 ./setup_env.sh"
  fi
  python_version=${answer%% *}
  python=${answer#* }
}

# --- What there is already ------------------------------------------------------------------------

minor_of() { # PYTHON: prints "3.13"; fails if it does not run
  "$1" -ISc 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

choose_lock() { # sets $device (the flag, else what .venv was made for, else nothing) and $lock
  device=$flag
  if [ -z "$device" ] && [ -s "$venv/setup_env.device" ]; then
    read -r device <"$venv/setup_env.device"
  fi
  lock=requirements.lock
  if [ "$device" = gpu ]; then lock=requirements-cuda.lock; fi
}

contents() { # what a whole environment is made from; kept in setup_env.installed
  printf '%s, %s, Python ' "$venv" "$device"
  minor_of "$venv/bin/python" || echo missing
  cat "$root/requirements.txt" "$root/$lock"
}

is_whole() {
  choose_lock
  [ -e "$venv/setup_env.installed" ] || return 1
  [ -z "${PYTHON:-}" ] || [ -z "$(misfit)" ] || return 1
  contents 2>/dev/null | cmp -s - "$venv/setup_env.installed"
}

misfit() { # prints why the .venv that is there cannot be used; nothing if it can
  local minor place=$venv
  if ! minor=$(minor_of "$venv/bin/python"); then
    echo "its Python does not run"
    return
  fi
  if [ -e "$venv/setup_env.place" ]; then place=$(cat "$venv/setup_env.place"); fi
  if [ "$place" != "$venv" ]; then
    echo "it was made for $place" # its commands would run what lies there
  elif [ "${minor#3.}" -lt "$FIRST_MINOR" ] || [ "${minor#3.}" -gt "$LAST_MINOR" ]; then
    echo "it has Python $minor"
  elif [ -n "${PYTHON:-}" ] && [ "$minor" != "${python_version%.*}" ]; then
    echo "it has Python $minor, PYTHON=$PYTHON is $python_version"
  fi
}

# --- Making it ------------------------------------------------------------------------------------

# A lock on this file, taken by Python because macOS has no flock command. It belongs to the open
# file 9, which pip inherits: it is given back when all of them have ended, however they ended.
TAKE_LOCK='
import fcntl, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("another setup_env.sh is at work here; waiting for it", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass  # a file system without locks
'

take_lock() {
  local locker=$venv/bin/python
  if ! minor_of "$locker" >/dev/null; then
    find_python
    locker=$python
  fi
  exec 9<"$root/setup_env.sh"
  "$locker" -ISc "$TAKE_LOCK"
}

detect_device() {
  case $(uname -s)$(nvidia-smi -L 2>/dev/null || true) in
    LinuxGPU*) echo gpu ;;
    *) echo cpu ;;
  esac
}

requirements_checksum() { # of what requirements.txt says, without its comments
  sed -e 's/ *#.*//' -e '/^ *$/d' "$root/requirements.txt" | cksum
}

check_lock() {
  local file
  for file in requirements.txt "$lock"; do
    [ -r "$root/$file" ] || fail "$root/$file is missing; git checkout $file brings it back"
  done
  if ! grep -qxF "# requirements.txt: checksum $(requirements_checksum)" "$root/$lock"; then
    fail "$lock does not fit requirements.txt as it is now; ./setup_env.sh --lock renews it"
  fi
}

free_mb() { # disk space: the field before the percentage, wherever spaces in names put it
  df -Pk "$root" |
    awk 'NR == 2 { for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+%$/) print int($(i - 1) / 1024) }'
}

check_space() { # before a new environment is begun: better told now than after a long download
  local needed=$CPU_MB free
  if [ "$device" = gpu ]; then needed=$GPU_MB; fi
  free=$(free_mb)
  if [ "${free:-$needed}" -lt "$needed" ]; then
    fail "not enough disk space: $free MB are free in $root, $needed MB are needed"
  fi
}

explain() { # WHAT FAILED: ends with one line that says why, taken from the log
  local why free
  free=$(free_mb)
  if grep -qiE 'no space left on device|disk quota exceeded' "$log" || [ "${free:-9}" -eq 0 ]; then
    why="the disk is full; free some space and run setup_env.sh again"
  elif grep -q 'DO NOT MATCH THE HASHES' "$log"; then
    why="a downloaded package is not the one that $lock names; run setup_env.sh again"
  elif grep -qE 'onnection broken by|ConnectionError|ResolutionError|ProxyError|[Tt]imed out' "$log"
  then
    why="no network, or the package index does not answer; run setup_env.sh again when it does"
    why="$why (once installed, everything works offline)"
  else
    why=$(grep '^ERROR: ' "$log" | tail -n 1 || true)
    why=${why:-$(tail -n 1 "$log")}
  fi
  fail "$1: ${why#ERROR: } [log: $log]"
}

make_bare() { # an environment with nothing but pip in it
  find_python
  check_space
  say "Python $python_version ($python) -> $venv"
  hint=" (about $CPU_DOWNLOAD to download, once)"
  if [ "$device" = gpu ]; then hint=" (about $GPU_DOWNLOAD to download, once)"; fi
  { mkdir "$venv" && echo making >"$venv/setup_env.place"; } 2>/dev/null ||
    fail "cannot write to $root: not permitted, or the disk is full"
  (
    "$python" -I -m venv --without-pip "$venv" &&
      "$venv/bin/python" -I -m ensurepip --default-pip
  ) >"$log" 2>&1 || explain "the environment could not be made"
}

# Where to install is settled, whatever pip's settings say. /tmp is too small on many systems.
pip() (
  unset PIP_TARGET PIP_PREFIX PIP_ROOT
  export PIP_USER=0 TMPDIR=$temporary
  exec "$venv/bin/python" -I -m pip --disable-pip-version-check --no-input "$@" 2>>"$log"
)

remove_half_copied() { # packages that a killed pip would take for installed the next time
  local site info
  for site in "$venv"/lib/python3.*/site-packages; do
    for info in "$site"/*.dist-info; do
      # pip writes INSTALLER after all other files of a package, only their list comes later.
      if [ -d "$info" ] && [ ! -e "$info/INSTALLER" ]; then rm -rf "$info"; fi
    done
    rm -rf "$site"/"~"* # how pip names what it is about to delete
  done
}

remove_gpu_libraries() {
  local packages
  packages=$(pip list --format=freeze | sed -n 's/^\(nvidia-.*\)==.*/\1/p')
  if [ -n "$packages" ]; then
    # shellcheck disable=SC2086 # one word for each package
    pip uninstall --yes $packages >>"$log" || explain "the GPU libraries could not be removed"
  fi
}

show_progress() { # one line that rewrites itself, until this is killed or left behind
  local step
  while sleep 1 && kill -0 $$ 2>/dev/null; do
    step=$(grep -E '^ *(Collecting|Downloading|Installing|Uninstalling) ' "$log" | tail -n 1 |
      sed -e 's/^ *//' -e 's/ (from .*//' -e 's/: .*//' -e 's/\(-[^- ]*\)\{3\}\.whl//') || true
    printf '\r\033[K%5d s  %.60s' "$SECONDS" "$step" >&2
  done
}

stop_progress() {
  if [ -n "$progress" ]; then
    kill "$progress" 2>/dev/null || true
    printf '\r\033[K' >&2
    progress=''
  fi
}

install() {
  local status=0
  rm -rf "$temporary"
  { mkdir "$temporary" && : >"$log"; } 2>/dev/null ||
    fail "cannot write to $venv: not permitted, or the disk is full"
  remove_half_copied
  if ! pip --version >/dev/null; then # `uv venv` makes environments without it
    "$venv/bin/python" -I -m ensurepip --default-pip >"$log" 2>&1 || explain "pip is missing"
  fi
  if [ "$device" = cpu ] && grep -qsx gpu "$venv/setup_env.device"; then remove_gpu_libraries; fi
  echo "$device" >"$venv/setup_env.device"

  say "installing $lock$hint"
  if [ -t 2 ]; then
    show_progress 9<&- &
    progress=$!
  fi
  pip install --require-hashes --only-binary :all: -r "$root/$lock" >>"$log" || status=$?
  stop_progress
  rm -rf "$temporary"
  [ "$status" -eq 0 ] || explain "$lock could not be installed"
}

make_whole() {
  local why aside
  take_lock
  if is_whole; then return; fi # another setup_env.sh has just made it
  if [ -z "$device" ]; then
    flag=$(detect_device)
    choose_lock
  fi
  check_lock

  if grep -qsx making "$venv/setup_env.place"; then rm -rf "$venv"; fi # was killed; holds pip only
  rmdir "$venv" 2>/dev/null || true                                    # if it is an empty folder
  if [ -e "$venv" ] || [ -L "$venv" ]; then
    why=$(misfit)
    if [ -n "$why" ]; then
      find_python
      aside=$venv.old-$(date +%Y%m%d-%H%M%S)
      mv "$venv" "$aside"
      say "$venv: $why; it is kept as ${aside##*/}"
    fi
  fi
  if [ ! -e "$venv" ]; then make_bare; fi

  rm -f "$venv/setup_env.installed"
  echo "$venv" >"$venv/setup_env.place"
  install
  contents >"$venv/setup_env.new"
  mv "$venv/setup_env.new" "$venv/setup_env.installed"
  say "ready in $SECONDS s"
}

# --- Renewing the locks ---------------------------------------------------------------------------

compile() { # LOCK REQUIREMENTS
  "$tools/uv/bin/uv" pip compile --quiet --no-config --python "$tools/uv/bin/python" \
    --universal --python-version "3.$FIRST_MINOR" --fork-strategy fewest --only-binary :all: \
    --generate-hashes --custom-compile-command "./setup_env.sh --lock" \
    --output-file "$1" "$2"
}

relock() {
  local lock
  find_python
  tools=$(mktemp -d "$root/.venv.lock-XXXXXX")
  trap 'rm -rf "$tools"' EXIT
  say "resolving the requirements (needs the network)"
  "$python" -I -m venv "$tools/uv"
  "$tools/uv/bin/python" -I -m pip --disable-pip-version-check install --quiet "$UV" ||
    fail "$UV could not be installed; the locks are as they were"

  cp "$root/requirements.txt" "$tools"
  cp "$root/docs/requirements.txt" "$tools/docs.txt"
  cd "$tools"
  # The second one begins with the versions of the first, so that the two agree. The site's packages
  # get an environment of their own (docs/build.py), and may differ.
  {
    compile requirements.lock requirements.txt &&
      cp requirements.lock requirements-cuda.lock &&
      sed -n 's/^tensorflow==\([^ ]*\).*/tensorflow[and-cuda]==\1 ; sys_platform == "linux"/p' \
        "$root/requirements.txt" >>requirements.txt &&
      compile requirements-cuda.lock requirements.txt &&
      compile docs.lock docs.txt
  } || fail "the requirements cannot be resolved; the locks are as they were"
  for lock in requirements.lock requirements-cuda.lock; do
    { echo "# requirements.txt: checksum $(requirements_checksum)" && cat "$lock"; } >new
    mv new "$root/$lock"
  done
  mv docs.lock "$root/docs/requirements.lock"
  say "requirements.lock, requirements-cuda.lock and docs/requirements.lock are renewed;"
  say "./setup_env.sh and docs/build.py install them"
}

# --------------------------------------------------------------------------------------------------

main() {
  local relock='' version
  flag='' python='' progress='' hint=''
  root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
  venv=$root/.venv
  log=$venv/setup_env.log
  temporary=$venv/setup_env.tmp

  while [ $# -gt 0 ]; do
    case $1 in
      --cpu | --gpu) flag=${1#--} ;;
      --lock) relock=yes ;;
      -h | --help)
        usage
        exit
        ;;
      -*)
        say "error: unknown option $1; ./setup_env.sh --help lists them"
        exit 2
        ;;
      *) break ;;
    esac
    shift
  done
  if [ "$flag" = gpu ] && [ "$(uname -s)" != Linux ]; then
    fail "--gpu: TensorFlow has libraries for NVIDIA GPUs on Linux only"
  fi
  if [ -n "$relock" ]; then
    relock
    exit
  fi

  if [ -n "${PYTHON:-}" ]; then find_python; fi
  if ! is_whole; then
    trap 'stop_progress; say "stopped; the next call goes on from here"; exit 130' INT
    make_whole
    trap - INT
    exec 9<&- # gives the lock back
  fi

  if [ $# -eq 0 ]; then
    version=$(sed -n 's/^tensorflow==\([^ ]*\).*/\1/p' "$root/requirements.txt")
    cat <<EOF
$venv is ready (TensorFlow $version, $device). Go on with one of
  ./setup_env.sh python examples/example07_vgg16_cifar10.py --data sample
  ./setup_env.sh pytest
  source .venv/bin/activate
EOF
    exit
  fi
  unset PYTHONHOME
  export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
  exec "$@"
}

main "$@" # last, so that an update of this file cannot change a run under way
