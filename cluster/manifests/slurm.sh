#!/usr/bin/env bash
# One run on a Slurm allocation: a Ray head on the first node, a worker on each other node, the run beside the head.
#
#   sbatch --nodes=4 cluster/manifests/slurm.sh configs/halfcheetah_atradiff.yaml [--setting VALUE ...]
#
# Submit from the checkout, on a file system that all nodes share. GPUs: sbatch --gpus-per-node=1. Slurm's SIGTERM
# before the time limit (--signal) makes the run write a checkpoint; sbatch slurm.sh --resume RUN_DIR goes on from it.
#SBATCH --job-name=atradiff
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --output=atradiff-%j.log
set -euo pipefail

if [ "$#" -lt 1 ]; then
    echo "usage: sbatch slurm.sh CONFIG [--setting VALUE ...]" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"
BIN=${ATRADIFF_BIN:-$PWD/.venv/bin}
export OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0
export PATH="$BIN:$PATH"
# Nodes are shared with other users: only who knows the token of this job may use its cluster.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs on one node do not meet
cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}
temporary="/tmp/ray-$SLURM_JOB_ID"

on_node() { # NODE COMMAND...: run beside the other steps of this job
    local node=$1
    shift
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" "$@"
}

wait_for() { # COUNT: until so many nodes are in the Ray cluster, two minutes at most
    local alive=0 until=$((SECONDS + 120))
    while [ "$alive" -lt "$1" ]; do
        if [ "$SECONDS" -gt "$until" ]; then
            echo "only $alive of $1 nodes joined the Ray cluster at $address:$port" >&2
            exit 1
        fi
        alive=$(on_node "$head" python -c "import ray; ray.init('$address:$port', log_to_driver=False, logging_level='ERROR')
print(sum(node['Alive'] for node in ray.nodes()))" 2>/dev/null | tail -1) || alive=0
        alive=${alive:-0}
    done
}

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
on_node "$head" ray start --head --node-ip-address="$address" --port="$port" --num-cpus="$cpus" --num-gpus="$gpus" \
    --temp-dir="$temporary" --include-dashboard=false --block &
wait_for 1
for node in "${nodes[@]:1}"; do
    on_node "$node" ray start --address="$address:$port" --num-cpus="$cpus" --num-gpus="$gpus" --block &
done
wait_for "${#nodes[@]}"

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" env RAY_ADDRESS="$address:$port" python -m cluster.run "$@" &
run=$!
trap 'kill -TERM "$run"' TERM # srun passes it on to the run, which writes a checkpoint
status=0
wait "$run" || status=$?
if kill -0 "$run" 2>/dev/null; then # the signal woke us: now wait for the checkpoint
    wait "$run" || status=$?
fi
exit "$status"
