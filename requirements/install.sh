#!/usr/bin/env bash
# Build one of the two environments of the project; what is there already is kept.
# Needs Python and a C++ compiler only: mmcv has no wheels for these versions of torch and is compiled here, once, and
# where torch sees a GPU, or with FORCE_CUDA=1, with the CUDA compiler of the package index. MMKERV_WHEELS=DIR keeps it.
set -euo pipefail

if (($# != 3)); then
    echo "usage: $0 DISTRIBUTION ENVIRONMENT PYTHON_VERSIONS   (for example: $0 onedl .venv '>=3.10,<3.14')" >&2
    exit 2
fi
distribution=$1 environment=$2 versions=$3
# A relative MMKERV_WHEELS is relative to where the user is.
if [[ ${MMKERV_WHEELS:-} == [!/]* ]]; then export MMKERV_WHEELS="$PWD/$MMKERV_WHEELS"; fi
cd "$(dirname "$0")/.."

fail() {
    printf 'error: %s\n' "$1" >&2
    printf '%s\n' "${@:2}" >&2
    exit 1
}

echo "Setting up $environment with the $distribution distribution of OpenMMLab (requirements/$distribution.txt)."

read -ra compiler <<<"${CXX:-c++}"
echo '#include <vector>' | "${compiler[@]}" -x c++ -fsyntax-only - 2>/dev/null || fail \
    "no working C++ compiler: tried '${compiler[*]}' (set CXX to use another one)" \
    'install one: apt-get install g++ | dnf install gcc-c++ | xcode-select --install | conda install cxx-compiler'

python=$environment/bin/python
if ! "$python" -c '' 2>/dev/null; then
    requirements/uv.sh venv --quiet --clear --python "$versions" "$environment" || fail \
        "$environment could not be made with a Python $versions" 'install one, or put it first on PATH'
fi
"$python" -c "import os, sysconfig; os.stat(sysconfig.get_path('include') + '/Python.h')" 2>/dev/null || fail \
    "the Python of $environment has no header files (Python.h), which compiling mmcv needs" \
    'install them: apt-get install python3-dev | dnf install python3-devel'

start=$SECONDS
export VIRTUAL_ENV="$PWD/$environment"
log=$(mktemp)
# A sign of life while torch is downloaded and mmcv compiles. The sleep must not hold our output open after we have ended.
(
    trap 'kill "$!"; exit' TERM
    while sleep 60 >/dev/null 2>&1 & wait "$!"; do
        echo "still installing ($(((SECONDS - start) / 60)) min)"
    done
) &
heartbeat=$!
trap 'kill "$heartbeat"; rm -f "$log"' EXIT

# uv's cache comes first, as it is: behind some mirrors uv takes the source of mmcv for a new one and compiles it anew.
# A build that fails would fail again.
install() {
    if ! requirements/uv.sh pip install --offline --quiet "$@" 2>"$log"; then
        if grep -q 'build_wheel. failed' "$log"; then
            cat "$log" >&2
            fail "mmcv could not be compiled"
        fi
        requirements/uv.sh pip install "$@"
    fi
}
mmcv_build() { "$python" requirements/mmcv_build.py "$@"; }

# torch first: it says which GPUs there are. Without numpy its import warns.
install --constraints "requirements/$distribution.txt" torch numpy
mmcv=$(grep -oE '^(onedl-)?mmcv==[0-9.]+' "requirements/$distribution.txt")
plan=$(mmcv_build plan)
{
    read -r target
    read -r architectures
    read -r cuda_compiler
    read -r jobs
    read -r sentence
} <<<"$plan"
settings=()
if [[ $target != cpu ]]; then
    if [[ -n $cuda_compiler ]]; then install "$cuda_compiler"; fi
    CUDA_HOME=$(mmcv_build toolkit "$architectures")
    export CUDA_HOME FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="$architectures"
    # nvcc takes the host compiler from here.
    if [[ -n ${CXX:-} ]]; then export NVCC_CCBIN="${compiler[0]}"; fi
    # uv's cache holds one wheel for each value of the settings, and does not look at variables.
    settings=(--config-settings-package "${mmcv%%=*}:target=$target")
fi
export MAX_JOBS="$jobs"
# Used by builds of C++ alone: mmcv's.
export UNITY_CXX="${compiler[*]}" CXX="$PWD/requirements/unity-c++"

wheel=
if reason=$(mmcv_build has "$target" "$mmcv"); then
    echo "mmcv is there, compiled for $target."
else
    if "$python" -c "import importlib.metadata as m; m.version('${mmcv%%=*}')" 2>/dev/null; then
        echo "mmcv is installed again: $reason."
        requirements/uv.sh pip uninstall --quiet "${mmcv%%=*}"
    fi
    if [[ -n ${MMKERV_WHEELS:-} ]]; then wheel=$(mmcv_build find "$target" "$mmcv"); fi
    if [[ -n $wheel ]]; then
        echo "mmcv is taken from $wheel."
        # torch is there already; uv refuses to look at mmcv without it.
        requirements/uv.sh pip install --no-index --no-deps --only-binary :all: --find-links "$wheel" "$mmcv" torch
    else
        echo "$sentence."
    fi
fi

install ${settings[@]+"${settings[@]}"} --requirements "requirements/$distribution.txt"
install --no-deps --editable .

reason=$(mmcv_build has "$target" "$mmcv") || fail "mmcv does not serve $target: $reason" \
    "${wheel:+remove $wheel, or }clean uv's cache of it: requirements/uv.sh cache clean ${mmcv%%=*}"
if [[ -n ${MMKERV_WHEELS:-} ]] && [[ -z $(mmcv_build find "$target" "$mmcv") ]]; then
    echo "mmcv is kept in $(mmcv_build keep "$target" "$mmcv")."
fi
echo "$environment is ready after $((SECONDS - start)) s. To use it in a shell, type:"
echo "source $environment/bin/activate"
