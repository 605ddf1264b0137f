#!/usr/bin/env bash
# usage: ./setup_env.sh [--cpu | --gpu | --docs | --lock] [COMMAND ...]
#
# Makes the Python environment .venv, where it is missing or out of date, with uv, which is taken
# from PATH or fetched into .uv (https://docs.astral.sh/uv/). Then it runs COMMAND there, such as
#     python examples/example07_vgg16_cifar10.py --data sample
#
#   --gpu, --cpu  with or without the libraries for an NVIDIA GPU (Linux); as long as neither has
#                 been said, with them if nvidia-smi lists a GPU
#   --docs        the environment of the site, .venv.docs, instead; docs/build.py uses it
#   --lock        renew the locks from requirements.txt and docs/requirements.txt
#
# PYTHON=/path/to/python3 chooses the Python; else it is the newest suitable one on PATH or in
# pyenv; where there is none, uv fetches one. uv's settings and PIP_INDEX_URL are respected.

if (return 0 2>/dev/null); then echo "error: run ./setup_env.sh, do not source it" >&2; return 2; fi
set -euo pipefail # and nothing newer than bash 3.2, which is what macOS has
say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }
UV=0.13.9 # what is fetched where PATH has no uv 0.13 or newer: a wheel, known by its SHA-256
UV_WHEELS="Linux x86_64: d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19
Linux aarch64: ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375
Darwin arm64: 66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63"
FETCH_UV='import hashlib, io, pathlib, re, sys, urllib.parse, urllib.request, zipfile
page, version, sha256, target = sys.argv[1:]
links = urllib.request.urlopen(page, timeout=60).read().decode()
link = re.search("href=\"([^\"]+)#sha256=" + sha256, links) or sys.exit("not in " + page)
wheel = urllib.request.urlopen(urllib.parse.urljoin(page, link.group(1)), timeout=60).read()
hashlib.sha256(wheel).hexdigest() == sha256 or sys.exit("wrong checksum: " + link.group(1))
uv = zipfile.ZipFile(io.BytesIO(wheel)).read("uv-%s.data/scripts/uv" % version)
pathlib.Path(target).write_bytes(uv)' # in plain Python, because not everyone has pip, venv or curl

find_uv() { # sets $uv
  local sha256 why
  [ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
  for uv in uv "$root/.uv/uv"; do
    "$uv" -V 2>/dev/null | awk -F '[ .]' '{ new = $2 > 0 || $3 > 12 } END { exit !new }' && return
  done
  sha256=$(printf '%s\n' "$UV_WHEELS" | sed -n "s/^$(uname -sm): //p")
  [ -n "$sha256" ] || fail "TensorFlow needs Linux (x86_64, aarch64; WSL 2 counts) or macOS (arm64)"
  say "fetching uv $UV into .uv"
  mkdir -p "$root/.uv" 2>/dev/null || fail "cannot write to $root"
  why=$("${PYTHON:-python3}" -c "$FETCH_UV" "${UV_DEFAULT_INDEX:-https://pypi.org/simple}/uv/" \
    $UV "$sha256" "$uv.$$" 2>&1) && chmod +x "$uv.$$" && mv "$uv.$$" "$uv" && return
  rm -f "$uv.$$"
  fail "uv cannot be fetched: ${why##*$'\n'}; https://docs.astral.sh/uv tells how to install it"
}

run_uv() { # WHAT_FAILS ARGUMENTS: shows what it downloads, and when it fails why, in one line
  local failure=$1 said && shift
  said=$("$uv" "$@" 2>&1 | while IFS= read -r line; do
    case $line in (Downloading* | " Downloaded"*) say "$line" ;; (*) printf '%s\n' "$line" ;; esac
  done) && return
  case $said in *"No space left"*) failure="disk full" ;; *retries*) failure+=", offline?" ;; esac
  fail "$failure: $(printf '%s\n' "$said" | awk '/^error: / { why = substr($0, 8) }
    sub(/^ +cause: /, "") { cause = ": " $0 } END { print why cause }')"
}

minor() { "$1" -ISc 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
suits() { case $(minor "$1") in 3.11 | 3.12 | 3.13) ;; *) return 1 ;; esac }
pins() { echo "${1#"$root"/}: checksum $(sed 's/ *#.*//; /^$/d' "$1" | cksum)"; } # see its lock
contents() { echo "$device $(cat "$requirements" "${locks[@]}" 2>/dev/null | cksum)"; }
is_whole() { # it was made from what is there now, and PYTHON is not another one
  [ "$(cat "$venv/setup_env.stamp" 2>/dev/null)" = "$(contents)" ] && [ -x "$venv/bin/python" ] &&
    { [ -z "${PYTHON:-}" ] || [ "$(minor "$PYTHON")" = "$(minor "$venv/bin/python")" ]; }
}

make_whole() { # aside: whatever happens, $venv is the old environment or all of the new one
  local python=${PYTHON:-} old
  new=$venv.new-$$
  grep -qsF "$(pins "$requirements")" "${locks[0]}" ||
    fail "${locks[0]} does not fit $requirements; ./setup_env.sh --lock renews it"
  [ -z "$python" ] || suits "$python" || fail "PYTHON=$python is not Python 3.11 to 3.13"
  find_uv
  if [ -z "$python" ] && suits "$venv/bin/python"; then python=$venv/bin/python; fi # chosen earlier
  python=${python:-$(PATH=$(printf '%s:' "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.*/bin)$PATH \
    "$uv" python list --only-installed '>=3.11,<3.14' 2>/dev/null |
    sed -n -e 's/ -> .*//' -e 's/^cpython-[0-9.]*-[^ ]* *//p' | head -n 1)}
  trap 'rm -rf "$new"' EXIT
  trap 'say "stopped; the next call need not download again what has arrived"; exit 130' INT
  for old in "$venv".new-*; do kill -0 "${old##*-}" 2>/dev/null || rm -rf "$old"; done # was killed
  mkdir "$new" 2>/dev/null || fail "cannot write to $root"
  run_uv "no Python 3.11 to 3.13 is found (PYTHON=... names one), and none can be fetched" \
    venv --no-project --relocatable --python "${python:-3.13}" "$new"
  exec 9<"$root/setup_env.sh" && "$new/bin/python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
  if is_whole; then rm -rf "$new"; return; fi # another call, for which this one has waited, did it
  say "${venv##*/}: Python $(minor "$new/bin/python"), ${locks[*]##*/}"
  set -- pip sync --python "$new" --require-hashes --only-binary :all: "${locks[@]}" \
    ${PYTHONDONTWRITEBYTECODE:+--compile-bytecode} # else each import of TensorFlow costs 6 s more
  "$uv" "$@" --offline 2>/dev/null || run_uv "${locks[*]##*/} cannot be installed" "$@"
  contents 2>/dev/null >"$new/setup_env.stamp" || fail "disk full: $new"
  rm -rf "$venv" && mv "$new" "$venv"
}

relock() { # requirements-cuda.lock gets what a GPU needs beside requirements.lock
  find_uv
  compile() { # REQUIREMENTS LOCK ...
    run_uv "$2 is not renewed" pip compile --no-config --upgrade --universal --python-version 3.11 \
      --fork-strategy fewest --only-binary :all: --generate-hashes --output-file "$2" \
      --custom-compile-command "./setup_env.sh --lock # $(pins "$1")" "$1" "${@:3}"
  }
  compile docs/requirements.txt docs/requirements.lock
  compile requirements.txt requirements.lock
  compile requirements.txt requirements-cuda.lock --constraints requirements.lock - \
    <<<'tensorflow[and-cuda] ; sys_platform == "linux"'
  awk '/^[^ #]/ { name = $1 } NR == FNR { have[name]; next } !(name in have)' \
    requirements.lock requirements-cuda.lock >.venv.cuda && mv .venv.cuda requirements-cuda.lock
}

main() {
  local flag='' && root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
  case ${1:-} in
    --cpu | --gpu | --docs) flag=${1#--} && shift ;;
    --lock) cd "$root" && relock; exit ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit ;;
    -*) say "error: unknown option $1; ./setup_env.sh --help lists them"; exit 2 ;;
  esac
  venv=$root/.venv requirements=$root/requirements.txt locks=("$root/requirements.lock")
  device=${flag:-$(cut -d ' ' -f 1 "$venv/setup_env.stamp" 2>/dev/null || true)}
  case ${device:-$(uname -s; nvidia-smi -L 2>/dev/null)} in
    docs) venv=$root/.venv.docs requirements=$root/docs/requirements.txt
      locks=("${requirements%.txt}.lock") ;;
    gpu | Linux*GPU*) device=gpu locks+=("$root/requirements-cuda.lock") ;;
    *) device=cpu ;;
  esac
  is_whole || make_whole
  [ $# -gt 0 ] || set -- echo "ready ($device); go on: source $venv/bin/activate"
  exec env -u PYTHONHOME VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH" "$@" 9<&-
}
main "$@" # last, so that an update of this file cannot change a run under way
