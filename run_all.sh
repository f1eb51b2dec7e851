#!/usr/bin/env bash
# Set up the environment and run the companion's notebooks, up to the report.
#
#   ./run_all.sh [smoke|mini|paper] [options]        default profile: mini
#
#   -n                 show what would run and why, and what is missing; run nothing
#   --only 03          run notebook 03, and what it needs if that is outdated
#   --from 03          run notebook 03 and everything after it
#   --force            run even what has not changed; trainings resume from their checkpoints
#   -p name=value      set a parameter (repeat for more); names: lib/companion/profiles.py
#   --cores N          processor cores to use (default: all)
#   -- OPTIONS         options for Snakemake itself, e.g. -- --executor slurm --jobs 4
#   --test             check the code and run the tests instead
#   --help             this text
#
# The first call installs the pinned packages into .venv (about 6 GB on Linux). To use an
# environment of your own (environment.yml): ALERTCLIP_PYTHON=python ./run_all.sh
# Results: runs/<profile>/. Interrupted runs continue where they stopped.
set -Eeuo pipefail
trap 'echo "run_all.sh: stopped at line $LINENO: $BASH_COMMAND" >&2' ERR
cd "$(dirname "${BASH_SOURCE[0]}")"
# Progress bars here are plain text: no notebook widgets are needed.
export PYTHONWARNINGS="ignore:IProgress not found${PYTHONWARNINGS:+,$PYTHONWARNINGS}"
export PYTHONNOUSERSITE=1 PYTHONUTF8=1 JUPYTER_PREFER_ENV_PATH=1
unset PYTHONPATH PYTHONHOME JUPYTER_PATH
# Some images set this: every process of a run would then spend 7 s on compiling torch.
unset PYTHONDONTWRITEBYTECODE

find_python() {  # run each candidate: a name on the PATH may be a shim without a Python
  local name
  for name in python3.12 python3.11 python3.10 python3 python; do
    if "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
        2>/dev/null; then echo "$name"; return; fi
  done
  echo "run_all.sh: no Python 3.10, 3.11 or 3.12 found; install one, or make the environment" \
       "with conda: conda env create -f environment.yml" >&2
  return 1
}

like_pip() {  # set the variable $1, unless it is set, to the user's pip setting $2
  local value
  value=$(.venv/bin/python -m pip config list 2>/dev/null |
    sed -n "s/^[^=]*\.$2='\(.*\)'\$/\1/p" | tail -1)
  [[ -z $value || -n ${!1:-} ]] || export "$1=${value//\\n/ }"
}

bootstrap_uv() {  # install uv into .venv and pass it pip's settings, which it does not read
  .venv/bin/python -m pip install --quiet --disable-pip-version-check uv || return 1
  like_pip UV_DEFAULT_INDEX index-url
  like_pip UV_INDEX extra-index-url
  like_pip UV_FIND_LINKS find-links
  like_pip UV_INSECURE_HOST trusted-host
  like_pip SSL_CERT_FILE cert
  export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}  # indexes are equal, as in pip
}

set_up() {  # .venv/installing marks an interrupted set-up: such a .venv is replaced
  local python uv=uv
  python=$(find_python)
  echo "Installing the pinned packages into .venv with $("$python" --version) (once)" >&2
  [[ -e .venv/installing || ! -x .venv/bin/python ]] && rm -rf .venv
  if uv --version >/dev/null 2>&1; then
    [[ -x .venv/bin/python ]] || uv venv --quiet --python "$python" .venv
  else
    uv=.venv/bin/uv
    [[ -x .venv/bin/pip ]] || "$python" -m venv .venv
    [[ -x $uv ]] || bootstrap_uv || echo "run_all.sh: uv cannot be installed; pip takes minutes" >&2
  fi
  touch .venv/installing
  if ! { "$uv" pip install --quiet --python .venv/bin/python -r requirements.txt &&
         "$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
       }; then
    echo "run_all.sh: uv failed; trying pip" >&2
    [[ -x .venv/bin/pip ]] || "$python" -m venv .venv
    local pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
    "${pip[@]}" -r requirements.txt
    "${pip[@]}" --no-deps --no-build-isolation -e .
  fi
  echo "$1" > .venv/installed
  rm .venv/installing
}

own_caches() {  # if a tool cannot write below the home folder, put all caches into runs/home
  local home=${HOME:-/} own=$PWD/runs/home folder refused=
  local cache=${XDG_CACHE_HOME:-$home/.cache}
  mkdir -p "$cache" 2>/dev/null || refused=$cache
  for folder in "$home" "$home"/.{ipython,jupyter,local/share/jupyter} "$cache" \
      "$cache"/{snakemake,matplotlib,numba,huggingface,huggingface/hub,torch,uv,pip}; do
    [[ ! -e $folder || -d $folder && -w $folder ]] || refused=$folder
  done
  [[ -n $refused ]] || return 0
  echo "run_all.sh: $refused cannot be written; caches go to runs/home" >&2
  mkdir -p "$own"
  export XDG_CACHE_HOME=$own/cache MPLCONFIGDIR=$own/matplotlib NUMBA_CACHE_DIR=$own/numba
  export HF_HOME=${HF_HOME:-$own/cache/huggingface} IPYTHONDIR=$own/ipython
  export JUPYTER_DATA_DIR=$own/jupyter JUPYTER_CONFIG_DIR=$own/jupyter
}

for argument in "$@"; do
  case $argument in
    -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit ;;
    --) break ;;
  esac
done
own_caches
if [[ -z ${ALERTCLIP_PYTHON:-} ]]; then
  ALERTCLIP_PYTHON=.venv/bin/python
  stamp=$({ pwd; cat requirements.txt pyproject.toml; } | cksum)
  [[ -x .venv/bin/python && $(cat .venv/installed 2>/dev/null) == "$stamp" ]] || set_up "$stamp"
fi
if [[ ${1:-} == --test ]]; then
  "$ALERTCLIP_PYTHON" -m ruff check .
  "$ALERTCLIP_PYTHON" -m ruff format --check .
  export OMP_NUM_THREADS=1 # the two workers share the cores
  exec "$ALERTCLIP_PYTHON" -m pytest -q -n 2 "${@:2}"
fi
exec "$ALERTCLIP_PYTHON" -m companion.run "$@"
