#!/usr/bin/env bash
# A run on GPU nodes, by Slurm.
#
#   cloud/slurm.sh submit [OPTIONS] [-- FLAGS]    send this script to the queue, as a job
#   cloud/slurm.sh job [OPTIONS] [-- FLAGS]       what the job does: start every process
#
#   --nodes=1 --gpus=8             GPUs a node
#   --per=gpu                      a process for each gpu, or for each node
#   --cpus=8                       a process
#   --time=24:00:00                two minutes before it is over, the run saves and is queued again
#   --max-restarts=50              times to queue it again
#   --name=jaxflow --partition --account
#   --python=.venv/bin/python      on every node
#   --workdir=DIR --config=configs/NAME.py --task=train      DIR is one that every node sees
#   --print                        show the commands, and run none
#
# What follows -- goes to the run: -- --config.batch_size=1024. An option may also come from the
# environment: JAXFLOW_PARTITION, JAXFLOW_MAX_RESTARTS.

# shellcheck disable=SC2153 # options become variables in parse
set -euo pipefail
folder=$(dirname -- "$0")
# A job is a copy elsewhere, and is started in the repository.
[[ ! -f $folder/common.sh ]] || CDPATH='' cd -- "$folder/.." > /dev/null
# shellcheck source-path=SCRIPTDIR source=common.sh
. cloud/common.sh

submit() {
  local options=("--job-name=$NAME" "--nodes=$NODES" "--ntasks-per-node=$PROCESSES"
    "--gpus-per-node=$GPUS" "--cpus-per-task=$CPUS" "--time=$TIME" --requeue --signal=TERM@120
    --open-mode=append "--output=$NAME-%j.log" "--chdir=$PWD")
  [[ -z $PARTITION ]] || options+=("--partition=$PARTITION")
  [[ -z $ACCOUNT ]] || options+=("--account=$ACCOUNT")
  local ours=("--gpus=$GPUS" "--per=$PER" "--cpus=$CPUS" "--max-restarts=$MAX_RESTARTS"
    "--python=$PYTHON" "--task=$TASK" "--workdir=$WORKDIR")
  [[ -z $CONFIG ]] || ours+=("--config=$CONFIG")
  run sbatch "${options[@]}" "$PWD/cloud/slurm.sh" job "${ours[@]}" -- ${EXTRA[@]+"${EXTRA[@]}"}
}

# --signal goes to the processes themselves; what is left to do is to queue the job again.
job() {
  local code=0 restarts=${SLURM_RESTART_COUNT:-0} number=${SLURM_JOB_ID:-}
  [[ -n $number || $PRINT == yes ]] || fail "no SLURM_JOB_ID: a job is started by slurm.sh submit"
  run srun --kill-on-bad-exit=0 --gpu-bind=none "--cpus-per-task=$CPUS" "${COMMAND[@]}" || code=$?
  again "$code" || exit "$code"
  ((restarts < MAX_RESTARTS)) || fail "gave up after $restarts restarts, with code $code"
  run scontrol requeue Incomplete "$number" # not where it was cancelled
}

parse "nodes gpus per cpus time max-restarts name partition account python workdir config task" \
  "" "$@"
NODES=${NODES:-1}
GPUS=${GPUS:-8}
PER=${PER:-gpu}
CPUS=${CPUS:-8}
TIME=${TIME:-24:00:00}
MAX_RESTARTS=${MAX_RESTARTS:-50}
NAME=${NAME:-jaxflow}
PYTHON=${PYTHON:-.venv/bin/python}
TASK=${TASK:-train}
whole 1 nodes gpus cpus
whole 0 max-restarts

case $VERB in
  submit | job) compose "$PYTHON" ;;
  *) fail "$VERB is not one of submit, job" ;;
esac
case $PER in
  gpu) PROCESSES=$GPUS ;;
  node) # without this variable a process under Slurm takes one GPU of its node
    PROCESSES=1
    COMMAND=(env "JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((GPUS - 1)))" "${COMMAND[@]}")
    ;;
  *) fail "--per must be gpu or node; it is $PER" ;;
esac
"$VERB"
