#!/usr/bin/env bash
# A Cloud TPU VM or pod slice, by queued resources.
#
#   cloud/tpu_vm.sh create | setup | run | watch | logs | stop | delete [OPTIONS] [-- FLAGS]
#
#   create   ask for the slice; it may wait in a queue
#   setup    install jaxflow on every worker, and copy the data there
#   run      start the same command on every worker, in the background
#   watch    wait until the slice is there; with --restart, see the run to its end: set up, run,
#            run again, and replace a slice that was taken away
#   logs     the last lines of every worker
#   stop     ask the run to save a checkpoint and end, and wait until it has
#   delete   give the slice back
#
#   --project --zone --name        where, and what it is called
#   --type=v5litepod-8             accelerator type
#   --runtime=v2-alpha-tpuv5-lite  runtime version
#   --spot                         cheaper, and may be taken away
#   --service-account=EMAIL        of the workers; by default that of Compute Engine
#   --repository=URL --branch=main
#   --data=gs://BUCKET/DATA        copied to ~/tensorflow_datasets of every worker
#   --workdir=gs://BUCKET/RUN --config=configs/NAME.py --task=train
#   --worker=all --tail=20 --follow          of logs
#   --restart --max-restarts=50 --poll=60    of watch, which needs --type and --spot then
#   --print                        show the commands, and run none
#
# What follows -- goes to the run: -- --config.batch_size=1024. An option may also come from the
# environment: JAXFLOW_PROJECT, JAXFLOW_MAX_RESTARTS, and JAXFLOW_SPOT=yes or no.

# shellcheck disable=SC2153 # options become variables in parse
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/.." > /dev/null
# shellcheck source-path=SCRIPTDIR source=common.sh
. cloud/common.sh

PATIENCE=${PATIENCE:-1800} # seconds for which workers may be silent
FILES=runs/tpu_vm          # in ~/jaxflow of each worker: log, pid, exit (the code), stopped (by hand)
# In lines for workers: whether the run is there. After a reboot its number may be that of another.
ALIVE="alive() { grep -qs experiments /proc/\$(cat ~/jaxflow/$FILES/pid 2> /dev/null)/cmdline; }"

queued() {
  local verb=$1
  shift
  run gcloud compute tpus queued-resources "$verb" "$NAME" \
    "--project=$PROJECT" "--zone=$ZONE" "$@"
}

# Run a line of shell on workers.
remote() {
  run gcloud compute tpus tpu-vm ssh "$NAME" "--project=$PROJECT" "--zone=$ZONE" "--worker=$1" \
    --ssh-flag=-oConnectTimeout=30 --ssh-flag=-oServerAliveInterval=30 "--command=$2"
}

create() {
  local options=("--node-id=$NAME" "--accelerator-type=$TYPE" "--runtime-version=$RUNTIME")
  [[ $SPOT == no ]] || options+=(--spot)
  [[ -z $SERVICE_ACCOUNT ]] || options+=("--service-account=$SERVICE_ACCOUNT")
  queued create "${options[@]}"
}

delete() {
  queued delete --force --quiet
}

setup() {
  local line="set -e; git init --quiet jaxflow; cd jaxflow"
  line+="; git fetch --quiet --depth=1 $(quote "$REPOSITORY" "$BRANCH")"
  line+="; git checkout --quiet --detach FETCH_HEAD"
  line+="; PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv"
  line+="; python3 -m uv venv --quiet --allow-existing --python=3.13 .venv"
  line+="; python3 -m uv pip install --quiet --python=.venv/bin/python"
  line+=" --constraints=constraints/py313.txt --editable=\".[tpu]\""
  if [[ -n $DATA ]]; then
    line+="; mkdir -p ~/tensorflow_datasets"
    line+="; gcloud storage rsync --recursive $(quote "$DATA") ~/tensorflow_datasets"
  fi
  remote all "$line"
}

start() {
  local line="set -e; cd jaxflow; mkdir -p $FILES; $ALIVE"
  line+="; if alive; then echo already running: stop it first >&2; exit 1; fi"
  line+="; rm -f $FILES/exit $FILES/stopped; nohup bash -c"
  line+=" '\"\$@\" & echo \$! > $FILES/pid; wait \$!"
  line+="; echo \$? > $FILES/exit.part && mv $FILES/exit.part $FILES/exit' run"
  line+=" $(quote "${COMMAND[@]}") < /dev/null >> $FILES/log 2>&1 &"
  remote all "$line"
}

stop() {
  local line="cd jaxflow/$FILES 2> /dev/null && touch stopped; $ALIVE"
  line+="; alive || { echo nothing is running; exit; }; kill -TERM \$(cat pid)"
  line+="; for i in \$(seq 300); do alive || exit 0; sleep 1; done"
  line+="; echo it is still saving after five minutes >&2; exit 1"
  remote all "$line"
}

logs() {
  local follow=""
  [[ $FOLLOW == no ]] || follow=" -F"
  local line="set -o pipefail; tail -n $TAIL$follow jaxflow/$FILES/log"
  remote "$WORKER" "$line | sed -u \"s/^/\$(hostname): /\""
}

# One word for each worker: none, running, stopped, lost, or the exit code.
report() {
  local line="cd jaxflow/$FILES 2> /dev/null || { echo worker none; exit; }; $ALIVE"
  line+="; if alive; then echo worker running"
  line+="; elif test -f stopped; then echo worker stopped"
  line+="; else code=\$(cat exit 2> /dev/null); echo worker \${code:-lost}; fi"
  remote all "$line"
}

state_of_queue() {
  queued describe '--format=value(state.state)'
}

state_of_node() {
  run gcloud compute tpus tpu-vm describe "$NAME" "--project=$PROJECT" "--zone=$ZONE" \
    '--format=value(state)'
}

say() {
  echo "$(date '+%F %T') $NAME: $1"
}

count_restart() {
  RESTARTS=$((RESTARTS + 1))
  ((RESTARTS <= MAX_RESTARTS)) ||
    fail "gave up after $MAX_RESTARTS restarts: read the logs, then delete $NAME"
}

# Ask for another slice, and say why.
replace() {
  count_restart
  say "$1: asking for another"
  until { delete || true; } && create; do # it may be gone already, or not gone yet
    count_restart
    say "it could not be asked for: trying again"
    sleep "$POLL"
  done
  SILENT=""
}

# Nobody answered: the slice is gone, or a worker is, or this machine may not enter.
silent() {
  case $(state_of_node || true) in
    PREEMPTED | TERMINATED) replace "it was taken away" && return ;;
  esac
  SILENT=${SILENT:-$SECONDS}
  if ((SECONDS - SILENT < PATIENCE)); then
    say "the workers do not answer: trying again"
  elif [[ $ANSWERED == no ]]; then
    fail "the workers of $NAME never answered: try cloud/tpu_vm.sh logs; the slice costs until it is deleted"
  else
    replace "its workers fell silent"
  fi
}

# Run the command again, or end with its code.
ended() {
  local word
  for word; do
    [[ $word == 0 || $word == lost ]] || again "$word" || {
      say "the run ended with code $word: read the logs; the slice costs until it is deleted"
      exit "$word"
    }
  done
  for word; do
    [[ $word != 0 ]] || continue
    count_restart
    say "the run ended with $word: running it again"
    start || true
    return
  done
  say "the run is done; the slice costs until it is deleted"
  exit
}

# The slice is there: do what its run needs now.
attend() {
  local words
  words=$(report | sed -n 's/^worker //p' | tr '\n' ' ') || words=""
  [[ -z $words ]] || { ANSWERED=yes && SILENT=""; }
  case " $words" in
    " ")
      silent
      return
      ;;
    *" none "*)
      say "setting up, and running"
      { setup && start; } || count_restart
      ;;
    *" running "*) ;;
    *" stopped "*)
      say "the run was stopped by hand; the slice costs until it is deleted"
      exit 75
      ;;
    *)
      # shellcheck disable=SC2086 # one word for each worker
      ended $words
      ;;
  esac
}

watch() {
  local found failures=0
  RESTARTS=0 SILENT="" ANSWERED=no
  while true; do
    found=$(state_of_queue) || found=unknown
    case $found in
      ACTIVE)
        [[ $RESTART == yes ]] || { say ready && return; }
        attend
        ;;
      SUSPENDED)
        [[ $RESTART == yes ]] || fail "$NAME was taken away: delete it, then create it again"
        replace "it was taken away"
        ;;
      FAILED) # what was had before may be had again
        [[ $ANSWERED == yes ]] || ((RESTARTS > 0)) ||
          fail "$NAME could not be had: delete it, and ask for another type or zone"
        replace "it could not be had"
        ;;
      unknown)
        failures=$((failures + 1))
        ((failures < 10)) || fail "the state of $NAME in $ZONE cannot be read: create it first"
        ;;
      *) say "$found" ;;
    esac
    [[ $found == unknown ]] || failures=0
    sleep "$POLL"
  done
}

# All that watch may run, once each.
print_watch() {
  state_of_queue
  [[ $RESTART == no ]] || { report && state_of_node && delete && create && setup && start; }
}

parse "project zone name type runtime service-account repository branch data workdir config task \
worker tail max-restarts poll" "spot restart follow" "$@"
[[ $VERB-$RESTART != watch-yes ]] || need type # the same for the next slice
TYPE=${TYPE:-v5litepod-8}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
BRANCH=${BRANCH:-main}
TASK=${TASK:-train}
WORKER=${WORKER:-all}
TAIL=${TAIL:-20}
MAX_RESTARTS=${MAX_RESTARTS:-50}
POLL=${POLL:-60}
whole 0 tail max-restarts poll

case $VERB in
  create | setup | run | watch | logs | stop | delete) need project zone name ;;
  *) fail "$VERB is not one of create, setup, run, watch, logs, stop, delete" ;;
esac
case $VERB-$RESTART in
  setup-* | watch-yes) need repository ;;
esac
case $VERB-$RESTART in
  run-* | watch-yes) need_bucket && compose .venv/bin/python ;;
esac
case $VERB-$PRINT in
  run-*) start ;;
  watch-yes) print_watch ;;
  *) "$VERB" ;;
esac
