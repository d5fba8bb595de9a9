#!/bin/bash
# A suite on all nodes of one allocation, by Ray:
#
#   sbatch examples/slurm/ray.sh full --out /shared/results
#
# For suites of runs that want a GPU each on nodes that have several, or where the folder of results is not shared. Else the
# array job beside this file is simpler: it starts as soon as one node is free, and a node that is done is given back.
#
# For GPUs: add "#SBATCH --gpus-per-node=4" here and "--device cuda" to the command; each run has one of its own.
#SBATCH --job-name=mtl-bench-ray
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
# To this script alone (B:), which hands it on to the command: Ray has to live until the checkpoints are made.
#SBATCH --signal=B:TERM@120
#SBATCH --requeue

PYTHON="${PYTHON:-.venv/bin/python}"
RAY="${RAY:-.venv/bin/ray}"
export RAY_USAGE_STATS_ENABLED=0

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
on_first=(srun --overlap --nodes=1 --ntasks=1 --nodelist="$first" --cpus-per-task="$SLURM_CPUS_PER_TASK")
ip=$("${on_first[@]}" hostname --ip-address | awk '{print $1}')
# Another port for each job, as several may share a node.
port=$((20000 + SLURM_JOB_ID % 20000))
cpus="--num-cpus=$SLURM_CPUS_PER_TASK"

"${on_first[@]}" "$RAY" start --head --node-ip-address="$ip" --port="$port" "$cpus" --include-dashboard=false --block &
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    others=$((SLURM_JOB_NUM_NODES - 1))
    # Ray on the other nodes tries for a while to reach the first one.
    srun --overlap --nodes="$others" --ntasks="$others" --exclude="$first" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
        "$RAY" start --address="$ip:$port" "$cpus" --block &
fi

# The command takes as many runs at a time as there is room for when it starts: wait until all nodes are there.
"${on_first[@]}" "$PYTHON" - "$ip:$port" "$SLURM_JOB_NUM_NODES" <<'PYTHON' || exit 1
import sys, time
import ray

end = time.monotonic() + 300
while time.monotonic() < end:
    try:
        ray.init(sys.argv[1], logging_level="ERROR")
        if sum(node["Alive"] for node in ray.nodes()) >= int(sys.argv[2]):
            sys.exit(0)
        ray.shutdown()
    except ConnectionError:
        pass
    time.sleep(2)
sys.exit("expected Ray on every node within five minutes")
PYTHON

"${on_first[@]}" "$PYTHON" run_bench.py "$@" --executor ray --address "$ip:$port" &
command=$!
trap 'kill -TERM "$command"' TERM
wait "$command"
code=$?
if kill -0 "$command" 2>/dev/null; then
    # The wait was ended by the signal; the command ends with its checkpoints.
    wait "$command"
    code=$?
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code" # which ends the job, and Ray with it
