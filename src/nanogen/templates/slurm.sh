#!/bin/bash
# sbatch this file: one process for each GPU. Two minutes before the time is over the training saves and ends, and the
# job is queued again; so is one whose node died. The same file submitted again continues.
#SBATCH --job-name=@NAME@
#SBATCH --nodes=@NODES@
#SBATCH --ntasks-per-node=@GPUS@
#SBATCH --gpus-per-node=@GPUS@
#SBATCH --cpus-per-task=8
#SBATCH --time=@HOURS@:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=@NAME@.log
export OMP_NUM_THREADS=1
srun --kill-on-bad-exit=1 @COMMAND@
code=$?
# 138: stopped by SIGUSR1.
if [ "$code" -eq 138 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
