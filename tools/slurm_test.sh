#!/usr/bin/env bash
# Test on a Slurm cluster, one task per GPU.
set -euo pipefail

usage() {
    cat >&2 <<EOF
usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]
environment:
  GPUS           GPUs in all (8)
  GPUS_PER_NODE  GPUs per machine (8, or GPUS if that is less)
  CPUS_PER_TASK  CPU cores per GPU (5)
  SRUN_ARGS      further arguments of srun, separated by spaces
  PYTHON         interpreter (python)
EOF
    exit 2
}

if (($# < 4)); then usage; fi
partition=$1 job_name=$2 config=$3 checkpoint=$4
gpus=${GPUS:-8}
if ! [[ $gpus =~ ^[1-9][0-9]*$ ]]; then usage; fi
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
read -ra srun_args <<<"${SRUN_ARGS:-}"
tools=$(dirname "$0")

# bash before 4.4 takes an empty array for an unset variable, hence the form of srun_args.
PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}" exec srun \
    --partition="$partition" --job-name="$job_name" --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${srun_args[@]+"${srun_args[@]}"} \
    "${PYTHON:-python}" -u "$tools/test.py" "$config" "$checkpoint" --launcher slurm "${@:5}"
