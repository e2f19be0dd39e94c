#!/usr/bin/env bash
# Build one of the two environments of the project; what is there already is kept.
# Needs Python and a C++ compiler only: mmcv has no wheels for these versions of torch and is compiled here, once.
set -euo pipefail

if (($# != 3)); then
    echo "usage: $0 DISTRIBUTION ENVIRONMENT PYTHON_VERSIONS   (for example: $0 onedl .venv '>=3.10,<3.14')" >&2
    exit 2
fi
distribution=$1 environment=$2 versions=$3
cd "$(dirname "$0")/.."

fail() {
    printf 'error: %s\n' "$1" >&2
    printf '%s\n' "${@:2}" >&2
    exit 1
}

echo "Setting up $environment with the $distribution distribution of OpenMMLab (requirements/$distribution.txt)."
echo "mmcv is compiled on the way: about 7 minutes on 2 cores, once; later set-ups take it from uv's cache in seconds."

read -ra compiler <<<"${CXX:-c++}"
echo '#include <vector>' | "${compiler[@]}" -x c++ -fsyntax-only - 2>/dev/null || fail \
    "no working C++ compiler: tried '${compiler[*]}' (set CXX to use another one)" \
    'install one: apt-get install g++ | dnf install gcc-c++ | xcode-select --install | conda install cxx-compiler'

if ! "$environment/bin/python" -c '' 2>/dev/null; then
    requirements/uv.sh venv --quiet --clear --python "$versions" "$environment" || fail \
        "$environment could not be made with a Python $versions" 'install one, or put it first on PATH'
fi
"$environment/bin/python" -c "import os, sysconfig; os.stat(sysconfig.get_path('include') + '/Python.h')" \
    2>/dev/null || fail \
    "the Python of $environment has no header files (Python.h), which compiling mmcv needs" \
    'install them: apt-get install python3-dev | dnf install python3-devel'

# A sign of life while mmcv compiles. The sleep must not hold our output open after we have ended.
start=$SECONDS
(
    trap 'kill "$!"; exit' TERM
    while sleep 60 >/dev/null 2>&1 & wait "$!"; do
        echo "still installing ($(((SECONDS - start) / 60)) min); mmcv compiles for about 7 minutes"
    done
) &
heartbeat=$!
trap 'kill "$heartbeat"' EXIT

export VIRTUAL_ENV="$PWD/$environment"
install() {
    requirements/uv.sh pip install "$@" --requirements "requirements/$distribution.txt" &&
        requirements/uv.sh pip install "$@" --no-deps --editable .
}
# The cache comes first, as it is: behind some mirrors uv takes the source of mmcv for a new one and compiles it anew.
install --offline --quiet 2>/dev/null || install
echo "$environment is ready after $((SECONDS - start)) s."
