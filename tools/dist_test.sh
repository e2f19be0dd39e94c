#!/usr/bin/env bash
# Test with one process per GPU (or several CPU processes), on one machine or more.
set -euo pipefail

usage() {
    cat >&2 <<EOF
usage: $0 CONFIG CHECKPOINT GPUS [arguments of test.py]
  GPUS         processes on this machine, one per GPU
environment:
  NNODES       machines (1)
  NODE_RANK    number of this machine, from 0 (0)
  MASTER_ADDR  address of machine 0 (127.0.0.1)
  PORT         free port of machine 0 (29500)
  PYTHON       interpreter (python)
EOF
    exit 2
}

if (($# < 3)) || ! [[ $3 =~ ^[1-9][0-9]*$ ]]; then usage; fi
config=$1 checkpoint=$2 gpus=$3
tools=$(dirname "$0")

# torch.distributed.run is torchrun, without the need of its script on PATH.
PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" --nproc-per-node="$gpus" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}" \
    "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
