# shellcheck shell=bash
# What the scripts share: options, errors of one sentence, and `run`, which prints or executes.

PRINT=no

fail() {
  echo "error: $1" >&2
  exit 2
}

# The comment at the top of the script, as its help; the script is in cloud/ of the folder we are in.
usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "cloud/${0##*/}"
  exit
}

upper() {
  tr 'a-z-' 'A-Z_' <<< "$1"
}

# Words as one line that a shell reads back as the same words.
quote() {
  local word line="" single="'" escaped="'\\''"
  for word; do
    case $word in
      "" | *[!A-Za-z0-9_@%+=:,./-]*) word="'${word//$single/$escaped}'" ;;
    esac
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Execute a command; under --print, show it instead.
run() {
  if [[ $PRINT == yes ]]; then quote "$@"; else "$@"; fi
}

# parse "OPTIONS" "SWITCHES" ARGUMENTS...
# The first word that is no option is the VERB, or else `help` is. --some-option=value sets
# SOME_OPTION, or else the environment's JAXFLOW_SOME_OPTION does; --switch sets SWITCH to yes, or
# else JAXFLOW_SWITCH does, to yes or no; what follows -- is kept in EXTRA. --print counts wherever
# it stands.
parse() {
  local options=" $1 " switches=" $2 print " name variable default
  shift 2
  VERB="" EXTRA=()
  for name in $options $switches; do
    variable=$(upper "$name")
    default=JAXFLOW_$variable
    printf -v "$variable" %s "${!default:-}"
  done
  for name in $switches; do
    variable=$(upper "$name")
    case ${!variable} in
      "") printf -v "$variable" no ;;
      yes | no) ;;
      *) fail "JAXFLOW_$variable must be yes or no; it is ${!variable}" ;;
    esac
  done
  local rest=no
  while (($#)); do
    name=${1%%=*}
    name=${name#--}
    case $rest$1 in
      no--print | yes--print) PRINT=yes ;;
      no--) rest=yes ;;
      yes*) EXTRA+=("$1") ;;
      no--help) usage ;;
      no--*=*)
        [[ $switches != *" $name "* ]] || fail "--$name takes no value: give --$name alone"
        [[ $options == *" $name "* ]] || fail "there is no --$name: known are$options"
        printf -v "$(upper "$name")" %s "${1#*=}"
        ;;
      no--*)
        [[ $options != *" $name "* ]] || fail "--$name needs a value: --$name=VALUE"
        [[ $switches == *" $name "* ]] || fail "there is no --$name: known are$options$switches"
        printf -v "$(upper "$name")" yes
        ;;
      *)
        [[ -z $VERB ]] ||
          fail "unexpected argument $1: options begin with --, those of the run follow a --"
        VERB=$1
        ;;
    esac
    shift
  done
  VERB=${VERB:-help}
  [[ $VERB != help ]] || usage
}

# Refuse to go on without these options.
need() {
  local name variable
  for name; do
    variable=$(upper "$name")
    [[ -n ${!variable} ]] || fail "no $name: give --$name=VALUE or set JAXFLOW_$variable"
  done
}

# whole LEAST NAMES...: refuse to go on unless these options are whole numbers of at least LEAST.
whole() {
  local least=$1 name variable value
  shift
  for name; do
    variable=$(upper "$name")
    value=${!variable}
    if ! [[ $value =~ ^(0|[1-9][0-9]*)$ ]] || ((value < least)); then
      fail "--$name must be a whole number, $least or more; it is $value"
    fi
  done
}

# The folder of the run must be one that all processes share.
need_bucket() {
  need workdir
  local hint=""
  [[ $WORKDIR != gs:///* ]] || hint=": is a variable unset?"
  [[ $WORKDIR == gs://[!/]*/?* ]] ||
    fail "--workdir must be gs://BUCKET/RUN, which all hosts share; it is $WORKDIR$hint"
}

# COMMAND becomes what every process runs: PYTHON -m experiments.TASK, its flags, and EXTRA.
compose() {
  COMMAND=("$1" -m "experiments.$TASK")
  case $TASK in
    train) need config && COMMAND+=("--config=$CONFIG") ;;
    sample | evaluate) ;;
    *) fail "--task must be train, sample or evaluate; it is $TASK" ;;
  esac
  need workdir
  COMMAND+=("--workdir=$WORKDIR" ${EXTRA[@]+"${EXTRA[@]}"})
}

# Whether a run that ended with this code is to be started again: it was told to stop (75), it
# stalled or lost a process (76), or a signal ended it, unless that was an interrupt.
again() {
  [[ $1 == 75 || $1 == 76 ]] || (($1 > 128 && $1 < 160 && $1 != 130))
}
