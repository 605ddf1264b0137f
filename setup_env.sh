#!/usr/bin/env bash
# usage: ./setup_env.sh [--cpu | --gpu | --docs] [COMMAND ...]
#        ./setup_env.sh --lock
#
# Makes the Python environment .venv where it is missing or out of date, with uv, which is taken from
# PATH or fetched into .uv (https://docs.astral.sh/uv/). Then it runs COMMAND there, for example
#     ./setup_env.sh python examples/example07_vgg16_cifar10.py --data sample
#
#   --gpu   with the libraries for an NVIDIA GPU (Linux)
#   --cpu   without them
#           Neither: with them if nvidia-smi lists a GPU. The choice is kept for later calls.
#   --docs  the environment of the site, .venv.docs, instead; docs/build.py uses it
#   --lock  renew the locks from requirements.txt and docs/requirements.txt
#
# PYTHON=/path/to/python3 chooses the Python; else it is the newest suitable one on PATH or in pyenv;
# where there is none, uv fetches one. uv's settings and PIP_INDEX_URL are respected.

if (return 0 2>/dev/null); then echo "error: run ./setup_env.sh, do not source it" >&2; return 2; fi
set -euo pipefail # and nothing newer than bash 3.2, which is what macOS has

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

UV=0.13.9 # what is fetched where PATH has none or an older one than 0.13: a wheel with a checksum of
UV_WHEELS="Linux x86_64: d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19
Linux aarch64: ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375
Darwin arm64: 66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63"
FETCH_UV='import hashlib, io, re, sys, urllib.parse, urllib.request, zipfile
page, version, sha256 = sys.argv[1:] # not by pip: it is not everywhere, and neither is curl
links = urllib.request.urlopen(page, timeout=60).read().decode()
link = re.search("href=\"([^\"]+)#sha256=" + sha256, links) or sys.exit("not in " + page)
wheel = urllib.request.urlopen(urllib.parse.urljoin(page, link.group(1)), timeout=60).read()
hashlib.sha256(wheel).hexdigest() == sha256 or sys.exit("wrong checksum: " + link.group(1))
uv = zipfile.ZipFile(io.BytesIO(wheel)).read("uv-%s.data/scripts/uv" % version)
sys.stdout.buffer.write(uv)'

find_uv() { # sets $uv
  local sha256 why
  for uv in uv "$root/.uv/uv"; do
    if "$uv" --version 2>/dev/null | awk -F '[ .]' '{ x = $2 > 0 || $3 > 12 } END { exit !x }'; then
      return
    fi
  done
  sha256=$(printf '%s\n' "$UV_WHEELS" | sed -n "s/^$(uname -sm): //p")
  [ -n "$sha256" ] || fail "TensorFlow needs Linux (x86_64, aarch64; WSL 2 counts) or macOS (arm64)"
  say "fetching uv $UV into .uv"
  mkdir -p "$root/.uv" 2>/dev/null || fail "cannot write to $root"
  why=$(python3 -c "$FETCH_UV" "${PIP_INDEX_URL:-https://pypi.org/simple}/uv/" $UV "$sha256" 2>&1 \
    >"$uv.$$") && chmod +x "$uv.$$" && mv "$uv.$$" "$uv" && return
  rm -f "$uv.$$"
  fail "uv cannot be fetched: ${why##*$'\n'}; https://docs.astral.sh/uv tells how to install it"
}

run_uv() { # WHAT FAILS ARGUMENTS: shows the downloads; the rest only as the reason of a failure
  local failure=$1 said
  shift
  said=$("$uv" "$@" 2>&1 | while IFS= read -r line; do
    case $line in Downloading* | " Downloaded"*) say "$line" ;; *) echo "$line" ;; esac
  done) || fail "$failure: $(printf '%s\n' "$said" | awk '/^error: / { why = substr($0, 8) }
    sub(/^ +cause: /, "") { cause = ": " $0 } END { print why cause }')"
}

minor() { "$1" -ISc 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
suits() { case $(minor "$1") in 3.11 | 3.12 | 3.13) ;; *) return 1 ;; esac }
checksum() { echo "${1#"$root"/}: checksum $(sed 's/ *#.*//; /^$/d' "$1" | cksum)"; } # in its lock
contents() { echo "$device $(cat "$requirements" "${locks[@]}" | cksum)"; }

is_whole() { # it was made from what is there now, and PYTHON is not another one
  [ "$(cat "$venv/setup_env.stamp" 2>/dev/null)" = "$(contents)" ] && [ -x "$venv/bin/python" ] &&
    { [ -z "${PYTHON:-}" ] || [ "$(minor "$PYTHON")" = "$(minor "$venv/bin/python")" ]; }
}

make_whole() { # aside: whatever happens, $venv is the old environment or all of the new one
  local python=${PYTHON:-} new=$venv.new-$$
  grep -qF "$(checksum "$requirements")" "${locks[0]}" ||
    fail "${locks[0]} does not fit $requirements as it is now; ./setup_env.sh --lock renews it"
  [ -z "$python" ] || suits "$python" || fail "PYTHON=$python is not Python 3.11 to 3.13"
  find_uv
  if [ -z "$python" ] && suits "$venv/bin/python"; then python=$venv/bin/python; fi # chosen earlier
  python=${python:-$(PATH=$(printf '%s:' "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.*/bin)$PATH \
    "$uv" python list --only-installed '>=3.11,<3.14' 2>/dev/null |
    sed -n -e 's/ -> .*//' -e 's/^cpython-[0-9.]*-[^ ]* *//p' | head -n 1)}

  trap 'rm -rf "$new"' EXIT
  trap 'say "stopped; the next call goes on with what has been downloaded"; exit 130' INT
  mkdir "$new" 2>/dev/null || fail "cannot write to $root"
  run_uv "no Python 3.11 to 3.13 is found, and none can be fetched (PYTHON=... names one)" \
    venv --no-project --relocatable --prompt .venv --python "${python:-3.13}" "$new"
  say "${venv##*/}: Python $(minor "$new/bin/python"), ${locks[*]##*/}"
  set -- pip sync --python "$new" --require-hashes --only-binary :all: "${locks[@]}"
  "$uv" "$@" --offline 2>/dev/null || run_uv "the packages cannot be had (once, from the network)" "$@"
  contents >"$new/setup_env.stamp"
  is_whole || { rm -rf "$venv" && mv "$new" "$venv"; } # unless another call has been faster
}

relock() { # requirements-cuda.lock: what a GPU needs beside requirements.lock
  local beside
  find_uv
  compile() { # REQUIREMENTS LOCK ...
    run_uv "$2 is not renewed" pip compile --no-config --upgrade --universal --python-version 3.11 \
      --fork-strategy fewest --only-binary :all: --generate-hashes --output-file "$2" \
      --custom-compile-command "./setup_env.sh --lock # $(checksum "$1")" "$1" "${@:3}"
  }
  compile docs/requirements.txt docs/requirements.lock
  compile requirements.txt requirements.lock
  compile requirements.txt requirements-cuda.lock --constraints requirements.lock - \
    <<<'tensorflow[and-cuda] ; sys_platform == "linux"'
  beside=$(awk '/^[^ #]/ { package = $1 } NR == FNR { have[package] = 1; next }
    !(package in have)' requirements.lock requirements-cuda.lock)
  printf '%s\n' "$beside" >requirements-cuda.lock
}

main() {
  local flag=''
  root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
  case ${1:-} in
    --cpu | --gpu | --docs) flag=${1#--} && shift ;;
    --lock) cd "$root" && relock; exit ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit ;;
    -*) say "error: unknown option $1; ./setup_env.sh --help lists them"; exit 2 ;;
  esac
  venv=$root/.venv requirements=$root/requirements.txt locks=("$root/requirements.lock")
  device=${flag:-$(cut -d ' ' -f 1 "$venv/setup_env.stamp" 2>/dev/null || true)}
  if [ -z "$device" ]; then
    case $(uname -s; nvidia-smi -L 2>/dev/null) in Linux*GPU*) device=gpu ;; *) device=cpu ;; esac
  fi
  if [ "$device" = gpu ]; then locks+=("$root/requirements-cuda.lock"); fi
  if [ "$device" = docs ]; then
    venv=$root/.venv.docs requirements=$root/docs/requirements.txt locks=("$root/docs/requirements.lock")
  fi
  is_whole || make_whole
  if [ $# -eq 0 ]; then
    say "$venv ($device) is ready: ./setup_env.sh COMMAND, or source ${venv##*/}/bin/activate" && exit
  fi
  unset PYTHONHOME
  export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
  exec "$@"
}

main "$@" # last, so that an update of this file cannot change a run under way
