#!/usr/bin/env bash
# A run by SkyPilot, which finds the machines, replaces those that are taken away, and ends them.
#
#   cloud/sky.sh launch | queue | logs | cancel [OPTIONS] [-- FLAGS]
#
#   --name                              of the run
#   --accelerators=tpu-v5litepod-8      or H100:8, say
#   --nodes=1                           machines with GPUs; a TPU slice is one, whatever its size
#   --infra=gcp                         or gcp/REGION, aws, k8s
#   --spot                              cheaper, and may be taken away
#   --workdir=gs://BUCKET/RUN --config=configs/NAME.py --task=train
#   --print                             show the commands, and run none
#
# What follows -- goes to the run: -- --config.batch_size=1024. An option may also come from the
# environment: JAXFLOW_NAME, JAXFLOW_INFRA, and JAXFLOW_SPOT=yes or no. SkyPilot shows the price and
# asks before it launches.

# shellcheck disable=SC2153 # options become variables in parse
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/.." > /dev/null
# shellcheck source-path=SCRIPTDIR source=common.sh
. cloud/common.sh

parse "name accelerators nodes infra workdir config task" "spot" "$@"
ACCELERATORS=${ACCELERATORS:-tpu-v5litepod-8}
NODES=${NODES:-1}
INFRA=${INFRA:-gcp}
TASK=${TASK:-train}
whole 1 nodes

case $VERB in
  queue) ;;
  launch | logs | cancel) need name ;;
  *) fail "$VERB is not one of launch, queue, logs, cancel" ;;
esac
case $VERB in
  launch)
    need_bucket && compose .venv/bin/python
    extra=cuda spot=--no-use-spot
    [[ $ACCELERATORS != tpu-* ]] || extra=tpu
    [[ $SPOT == no ]] || spot=--use-spot
    run sky jobs launch --detach-run "--name=$NAME" "--infra=$INFRA" "--gpus=$ACCELERATORS" \
      "--num-nodes=$NODES" "$spot" "--env=EXTRA=$extra" "--env=COMMAND=$(quote "${COMMAND[@]}")" \
      cloud/skypilot.yaml
    ;;
  queue) run sky jobs queue ;;
  logs) run sky jobs logs "--name=$NAME" ;;
  cancel) run sky jobs cancel "--name=$NAME" ;;
esac
