#!/usr/bin/env bash
# One run on a Slurm allocation: a Ray head on the first node, a worker on each other node, the run beside the head.
#
#   sbatch --nodes=4 cluster/manifests/slurm.sh configs/halfcheetah_cluster.yaml [--setting VALUE ...]
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

cpus=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=$cpus # since Slurm 22.05 a step has one CPU unless it is told
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}')
# Two jobs on one node do not meet: a port of its own for the head, free ones for all else, and a folder of its own.
port=$((20000 + SLURM_JOB_ID % 10000))
gpus=${SLURM_GPUS_ON_NODE:-0}
shared=(--num-cpus="$cpus" --num-gpus="$gpus" --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0
    --disable-usage-stats --block)
step=(srun --overlap --nodes=1 --ntasks=1) # beside the other steps of this job

wait_for() { # COUNT: until so many nodes are in the Ray cluster, five minutes at most
    "${step[@]}" --nodelist="$head" python - "$address:$port" "$1" <<'PYTHON'
import sys, time, ray
address, count = sys.argv[1], int(sys.argv[2])
alive, until = 0, time.monotonic() + 300
while alive < count:
    if time.monotonic() > until:
        sys.exit(f"only {alive} of {count} nodes joined the Ray cluster at {address}")
    time.sleep(1)
    try:
        ray.init(address, ignore_reinit_error=True, log_to_driver=False, logging_level="CRITICAL")
        alive = sum(node["Alive"] for node in ray.nodes())
    except (ConnectionError, RuntimeError, ValueError):
        pass  # the head is not there yet
PYTHON
}

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
"${step[@]}" --nodelist="$head" ray start --head --node-ip-address="$address" --port="$port" \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID-0" --ray-client-server-port=$((port + 10000)) --include-dashboard=false \
    "${shared[@]}" &
wait_for 1 # a worker that finds no head gives up
for i in $(seq 1 $((${#nodes[@]} - 1))); do
    "${step[@]}" --nodelist="${nodes[$i]}" ray start --address="$address:$port" --temp-dir="/tmp/ray-$SLURM_JOB_ID-$i" \
        "${shared[@]}" &
done
wait_for "${#nodes[@]}"

"${step[@]}" --nodelist="$head" env RAY_ADDRESS="$address:$port" python -m cluster.run "$@" &
run=$!
trap 'kill -TERM "$run"' TERM # srun passes it on to the run, which writes a checkpoint
status=0
wait "$run" || status=$?
if kill -0 "$run" 2>/dev/null; then # the signal woke us: now wait for the checkpoint
    wait "$run" || status=$?
fi
exit "$status"
