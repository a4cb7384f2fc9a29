#!/usr/bin/env bash
# A run on slices of a GKE cluster, by xpk.
#
#   cloud/xpk.sh image | create | list | watch | delete [OPTIONS] [-- FLAGS]
#
#   image    build the image of this folder and push it
#   create   start the run on every host of the slices
#   list     the state of the run
#   watch    wait until the run has ended
#   delete   end the run; the cluster stays, and costs
#
#   --project --zone --cluster     of the cluster, made by xpk cluster create
#   --name                         of the run
#   --image=ADDRESS:TAG            in a registry that the cluster may read
#   --type=v5litepod-64 --slices=1
#   --max-restarts=50 --grace=120  seconds from SIGTERM to the end
#   --workdir=gs://BUCKET/RUN --config=configs/NAME.py --task=train
#   --print                        show the commands, and run none
#
# What follows -- goes to the run: -- --config.batch_size=1024. An option may also come from the
# environment: JAXFLOW_PROJECT, JAXFLOW_MAX_RESTARTS.

# shellcheck disable=SC2153 # options become variables in parse
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/.." > /dev/null
# shellcheck source-path=SCRIPTDIR source=common.sh
. cloud/common.sh

workload() {
  local verb=$1
  shift
  run xpk workload "$verb" "--cluster=$CLUSTER" "--project=$PROJECT" "--zone=$ZONE" "$@"
}

parse "project zone cluster name image type slices max-restarts grace workdir config task" "" "$@"
TYPE=${TYPE:-v5litepod-64}
SLICES=${SLICES:-1}
MAX_RESTARTS=${MAX_RESTARTS:-50}
GRACE=${GRACE:-120}
TASK=${TASK:-train}
whole 1 slices
whole 0 max-restarts grace

case $VERB in
  image) need image ;;
  create | list | watch | delete) need project zone cluster name ;;
  *) fail "$VERB is not one of image, create, list, watch, delete" ;;
esac
case $VERB in
  image)
    run docker build --platform=linux/amd64 --build-arg=EXTRA=tpu "--tag=$IMAGE" \
      --file=cloud/Dockerfile .
    run docker push "$IMAGE"
    ;;
  create)
    need image && need_bucket && compose python
    # xpk restarts after codes 42 and 127 to 255 alone. `exec` lets SIGTERM reach Python.
    workload create "--workload=$NAME" "--tpu-type=$TYPE" "--num-slices=$SLICES" \
      "--docker-image=$IMAGE" "--max-restarts=$MAX_RESTARTS" --restart-on-exit-codes=75,76 \
      "--termination-grace-period-seconds=$GRACE" "--command=exec $(quote "${COMMAND[@]}")"
    ;;
  list) workload list "--filter-by-job=$NAME" ;;
  watch) workload list "--wait-for-job-completion=$NAME" ;;
  delete) workload delete "--workload=$NAME" ;;
esac
