#!/usr/bin/env bash
# Run the companion's notebooks from nothing to reports.
#
#   ./run_all.sh [smoke|mini|paper] [options]        default profile: mini
#
#   -n                 show what would run and why, run nothing
#   --only 03          run notebook 03, and what it needs where that is missing
#   --from 03          run notebook 03 and everything after it
#   --force            run even what has not changed; trainings resume from their checkpoints
#   -p name=value      set a parameter (repeat for more); names: lib/alertclip/params.py
#   --cores N          processor cores to use (default: all)
#   -- OPTIONS         options for Snakemake itself, e.g. -- --executor slurm --jobs 4
#   --test             check the code and run the tests instead
#   --help             this text
#
# The first call installs the pinned packages into .venv (about 6 GB on Linux). To use an
# environment of your own (environment.yml): ALERTCLIP_PYTHON=python ./run_all.sh
# Results: runs/<profile>/. Interrupted runs continue where they stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# Progress here is plain text: no notebook widgets are needed.
export PYTHONWARNINGS="ignore:IProgress not found${PYTHONWARNINGS:+,$PYTHONWARNINGS}"
export PYTHONNOUSERSITE=1 PYTHONUTF8=1 JUPYTER_PREFER_ENV_PATH=1
unset PYTHONPATH PYTHONHOME JUPYTER_PATH
# Some images forbid compiled modules: each of a run's processes would compile torch for 7 s.
unset PYTHONDONTWRITEBYTECODE

find_python() {  # a name on the PATH may be a shim without a Python behind it: run it
  local name
  for name in python3.12 python3.11 python3.10 python3 python; do
    if "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
        2>/dev/null; then echo "$name"; return; fi
  done
  echo "run_all.sh: no Python 3.10, 3.11 or 3.12 found; install one, or make the environment" \
       "with conda: conda env create -f environment.yml" >&2
  return 1
}

set_up() {  # .venv/installing marks a set-up that was interrupted: such a .venv is made again
  local python install
  python=$(find_python)
  echo "Installing the pinned packages into .venv with $("$python" --version) (once)" >&2
  [[ -e .venv/installing || ! -x .venv/bin/python ]] && rm -rf .venv
  if uv --version >/dev/null 2>&1; then
    [[ -x .venv/bin/python ]] || uv venv --quiet --python "$python" .venv
    install=(uv pip install --quiet --python .venv/bin/python)
  else
    [[ -x .venv/bin/pip ]] || "$python" -m venv .venv
    install=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
  fi
  touch .venv/installing
  "${install[@]}" -r requirements.txt
  "${install[@]}" --no-deps --no-build-isolation -e .
  echo "$1" > .venv/installed
  rm .venv/installing
}

for argument in "$@"; do
  case $argument in
    -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit ;;
    --) break ;;
  esac
done
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
