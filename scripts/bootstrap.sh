#!/usr/bin/env bash
# Makes .venv: a Python 3.10 and exactly the packages that uv.lock pins. Returns at once when it is there already.
set -euo pipefail
cd -P "$(dirname "$0")/.."
unset CDPATH VIRTUAL_ENV CONDA_PREFIX PYTHONHOME PYTHONPATH UV_PYTHON UV_PROJECT_ENVIRONMENT
export PIP_DISABLE_PIP_VERSION_CHECK=1

stamp=.venv/bootstrap.stamp # written last: an environment without it was never finished
wanted=$(pwd -P; cat .python-version pyproject.toml uv.lock | cksum)

say() { printf '%s\n' "$@" >&2; }
ready() { [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && .venv/bin/python -ISc '' 2>/dev/null; }
usable() { [[ -f $stamp && $(head -n 1 "$stamp") == "$PWD" ]] && .venv/bin/python -ISc '' 2>/dev/null; }

# Only one set-up of this folder at a time.
lock() {
    if command -v flock >/dev/null; then
        exec 9>.venv.lock
        flock -n 9 || { say "Waiting for another set-up of this folder to end ..."; flock 9; }
    else
        until mkdir .venv.lock.d 2>/dev/null; do
            say "Waiting for another set-up of this folder to end (if there is none, remove .venv.lock.d) ..."
            sleep 5
        done
        trap 'rm -rf "$scratch"; rmdir .venv.lock.d' EXIT
    fi
}

pyenv_versions() { echo "$(pyenv root 2>/dev/null || echo "${PYENV_ROOT:-${HOME:-}/.pyenv}")/versions"; }

# All Pythons on PATH, not only the first, because a pyenv shim can exist and fail; then pyenv's own.
pythons() {
    type -aP python3.10 python3 python || true
    find "$(pyenv_versions)"/*/bin -name python 2>/dev/null || true
}

# Prints the first Python that runs the statement "$1".
first_python() {
    local candidate
    while IFS= read -r candidate; do
        if "$candidate" -c "$1" </dev/null >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done < <(pythons)
    return 1
}

locked_uv() { sed -n '/^name = "uv"$/{n;s/^version = "\(.*\)"$/uv==\1/p;}' uv.lock; }

# Prints a uv: the one on PATH, else one from PyPI in a folder that goes when this script ends.
any_uv() {
    local helper tool=$scratch/uv
    if uv --version >/dev/null 2>&1; then
        command -v uv
    elif helper=$(first_python 'import ensurepip, sys, venv; assert sys.version_info >= (3, 8)'); then
        "$helper" -m venv "$tool" && "$tool/bin/python" -m pip install --quiet "$(locked_uv)" && echo "$tool/bin/uv"
    elif helper=$(first_python 'import pip, sys; assert sys.version_info >= (3, 8)'); then
        "$helper" -m pip install --quiet --target "$tool" "$(locked_uv)" && echo "$tool/bin/uv"
    else
        return 1
    fi
}

make_environment() {
    local python uv
    if python=$(first_python 'import ensurepip, sys, venv; assert sys.version_info[:2] == (3, 10)'); then
        say "Making .venv with $python ..."
        "$python" -m venv .venv
        .venv/bin/python -m pip install --quiet "$(locked_uv)" || no_uv
    else
        say "No Python 3.10 with venv found on PATH or in pyenv. Asking uv to find or download one ..."
        uv=$(any_uv) || no_python "not on PATH, and not installed from PyPI (this needs a Python from 3.8 and the network)"
        "$uv" venv --quiet --python cpython3.10 .venv || no_python "found none either and could not download one (see above)"
        "$uv" pip install --quiet --python .venv "$(locked_uv)" || no_uv
    fi
}

no_uv() {
    say "" "Could not install uv from PyPI: the lines above say why. Check the network, the proxy (HTTPS_PROXY)" \
        "and the certificates (SSL_CERT_FILE), then run the same command again."
    exit 1
}

no_python() {
    local candidate
    say "" "No Python 3.10 could be had. SecretFlow has packages for Python 3.10 and for no other version." "" "Tried:"
    while IFS= read -r candidate; do
        say "  - $candidate: $("$candidate" -V 2>&1 </dev/null | head -n 1 || true)"
    done < <(pythons)
    say "  - pyenv: none in $(pyenv_versions)" "  - uv: $1" \
        "" "Get one in any of these ways, then run the same command again:" \
        "  - uv:      uv python install 3.10" \
        "  - pyenv:   pyenv install 3.10" \
        "  - conda:   conda create -n sfworker python=3.10 && conda activate sfworker" \
        "  - Linux:   your distribution's python3.10; on Debian and Ubuntu together with python3.10-venv" \
        "It must be on PATH as python3.10, python3 or python, or be one of pyenv's or uv's."
    exit 1
}

ready && exit
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
lock
ready && exit # another set-up was faster

if ! usable; then
    [[ ! -e .venv ]] || say "Replacing a .venv that is unfinished, broken or from another folder ..."
    rm -rf .venv
    make_environment
fi
if ! .venv/bin/uv lock --check --quiet; then
    say "" "pyproject.toml and uv.lock do not fit together. After a change in pyproject.toml, run: .venv/bin/uv lock"
    exit 1
fi
say "Installing what uv.lock pins (about 150 packages; some minutes the first time) ..."
rm -f "$stamp"
# Compiled now: where PYTHONDONTWRITEBYTECODE is set, each import of SecretFlow would take 6 s instead of 2.
.venv/bin/uv sync --locked --extra engine --extra postgresql --extra dev --group docs --compile-bytecode 2>&1 | sed '/^ [-+~] /d; /^ *Downloaded /d' >&2
printf '%s\n' "$wanted" >"$stamp"
say "Ready: .venv has $(.venv/bin/python -V) and SecretFlow Worker."
