#!/bin/bash
# A suite as an array job:
#
#   sbatch examples/slurm/array.sh full --out /shared/results
#
# Every task of the array is the same command on the same folder. A run is trained by the task that holds its lock in that
# folder, so no run is trained twice, and nothing but the folder has to be shared. The folder has to be one whose locks hold
# between nodes; each task looks whether they do, and refuses where they do not. A task leaves when every run that is left is
# in the hands of others (--no-wait), so that no node is held for nothing. Runs that follow from others (tuned and frozen
# settings) are trained by the task that comes last; submit the job once more to spread them, too.
#
# On a login node, at any time:  python run_bench.py report full --out /shared/results
#
# For GPUs, one for each task: add "#SBATCH --gpus-per-task=1" here and "--device cuda" to the command.
#SBATCH --job-name=mtl-bench
#SBATCH --array=0-9
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --output=slurm-%A_%a.out
#SBATCH --open-mode=append
# Two minutes before the time is over the command is asked to stop: its runs make their checkpoints.
#SBATCH --signal=TERM@120
# Where a node fails or the job is preempted, SLURM starts the task again, and it goes on from the checkpoints.
#SBATCH --requeue

PYTHON="${PYTHON:-.venv/bin/python}" # relative to the folder in which sbatch was called: the checkout

srun --cpus-per-task="$SLURM_CPUS_PER_TASK" "$PYTHON" run_bench.py "$@" --no-wait
code=$?

# 128 + 15: it was asked to stop before all was done.
if [ "$code" -eq 143 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
