#!/usr/bin/env bash
# Run uv with the given arguments; where it is missing or too old for pyproject.toml, it is installed into .uv first.
set -euo pipefail
cd "$(dirname "$0")/.."
# A missing Python is an error, not a download.
export UV_PYTHON_DOWNLOADS=never

for uv in uv .uv/bin/uv; do
    # An uv that is too old fails at any command.
    if "$uv" cache dir >/dev/null 2>&1; then exec "$uv" "$@"; fi
done

python=$(command -v python3 || command -v python) || {
    echo 'error: no Python found; install Python >= 3.10 and put it on PATH' >&2
    exit 1
}
echo "Installing uv into .uv with $python." >&2
"$python" -m venv --clear .uv || {
    echo "error: $python cannot make virtual environments" >&2
    echo "install its venv module (Debian, Ubuntu: apt-get install python3-venv)" >&2
    exit 1
}
.uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9' >&2
exec .uv/bin/uv "$@"
