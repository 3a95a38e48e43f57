# Sourced by the launch scripts: reads their options, builds the command lines
# of diffai_jax.main, and runs several at once. Each script has in its head's
# comment what --help prints.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Ends with one line about what the user gave; $* says what was expected.
fail() {
  echo "error: $(basename "$0"): $*; see --help" >&2
  exit 2
}

# Prints the comment at the head of a script.
print_help() {
  sed -n '2,/^[^#]/{ /^#SBATCH/d; s/^# \{0,1\}//p; }' "$1"
}

# Sets a variable for each option: --dry-run makes $dry_run 1, --port=5 makes
# $port 5. What follows after -- becomes the array `flags`. --help prints the
# help and ends.
#   read_own_options SCRIPT "NAME ..." "SWITCH ..." "$@"
read_own_options() {
  # Underscores: an option may be called "name".
  local _script=$1 _names=" $2 " _switches=" $3 dry-run " _option _name
  shift 3
  dry_run=""
  flags=()
  while (($#)); do
    _option=$1
    shift
    case $_option in
      --help | -h)
        print_help "$_script"
        exit 0
        ;;
      --)
        flags=("$@")
        break
        ;;
    esac
    _name=${_option#--}
    _name=${_name%%=*}
    if [[ $_option != --* || -z $_name ]]; then
      fail "unexpected argument $_option; every option begins with --"
    elif [[ $_switches == *" $_name "* ]]; then
      [[ $_option == "--$_name" ]] || fail "--$_name takes no value"
      printf -v "${_name//-/_}" 1
    elif [[ $_names == *" $_name "* ]]; then
      [[ $_option == *=?* ]] || fail "--$_name needs a value: --$_name=VALUE"
      printf -v "${_name//-/_}" %s "${_option#*=}"
    elif [[ $_name == config* || $_name == workdir || $_name == mode ]]; then
      fail "--$_name is a flag of diffai_jax.main; those stand after --"
    else
      fail "unknown option --$_name"
    fi
  done
}

# The same, and checks that there are flags of diffai_jax.main after --.
read_options() {
  read_own_options "$@"
  local _flag
  for _flag in ${flags[@]+"${flags[@]}"}; do
    [[ $_flag != --config.distributed* ]] ||
      fail "$_flag is what this script sets; leave it out"
  done
  ((${#flags[@]})) || fail "no flags of diffai_jax.main; give them after --," \
    "such as -- --config=configs/convsmall.py --workdir=runs/convsmall"
}

# Checks that an option's value is a whole number within limits.
#   check_number NAME VALUE LEAST MOST
check_number() {
  [[ $2 =~ ^[0-9]{1,9}$ ]] && ((10#$2 >= $3 && 10#$2 <= $4)) ||
    fail "--$1 is $2; expected a whole number from $3 to $4"
}

# The Python to use: the given one, $PYTHON, the project's own, or the system's.
choose_python() {
  local given=${1:-${PYTHON:-}}
  if [[ -n $given ]]; then
    echo "$given"
  elif [[ -x $root/.venv/bin/python ]]; then
    echo "$root/.venv/bin/python"
  else
    echo python3
  fi
}

# The words as one line that a shell reads as the same words.
quoted() {
  local word line="" plain='^[A-Za-z0-9_./:=,@%+-]+$'
  for word in "$@"; do
    if [[ ! $word =~ $plain ]]; then
      word="'${word//\'/\'\\\'\'}'"
    fi
    line+="${line:+ }$word"
  done
  printf '%s' "$line"
}

# Runs command lines at the same time until all have ended. Once one fails, or
# on Ctrl-C, SIGTERM or SIGHUP, the others get the same chance to save and end:
# the signal, and after $patience seconds SIGKILL. Ends with the first failure's
# exit code.
run_together() {
  local patience=$1 line pid code=0 ended asked="" since=0 alive pids
  shift
  # Each in a process group of its own, so that a terminal's Ctrl-C reaches it
  # once: from here.
  set -m
  pids=()
  trap 'pass_on INT' INT
  trap 'pass_on TERM' TERM
  trap 'pass_on HUP' HUP
  for line in "$@"; do
    eval "exec_apart $line" &
    pids+=($!)
  done
  while ((${#pids[@]})); do
    alive=()
    for pid in "${pids[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then
        alive+=("$pid")
      else
        ended=0
        wait "$pid" 2>/dev/null || ended=$?
        ((code)) || code=$ended
      fi
    done
    pids=(${alive[@]+"${alive[@]}"})
    if ((code)) && [[ -z $asked ]]; then
      pass_on TERM
    fi
    if [[ -n $asked ]] && ((SECONDS - since > patience)); then
      send KILL
    fi
    sleep 0.1
  done
  exit "$code"
}

# Asks what still runs to end; the second time it is asked again.
pass_on() {
  [[ -n $asked ]] || since=$SECONDS
  asked=$1
  send "$1"
}

send() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do
    kill -s "$1" -- "-$pid" 2>/dev/null || true
  done
}

# A command that reads nothing from the terminal: several could not share it.
exec_apart() {
  exec "$@" </dev/null
}

# Prints each line with --dry-run, and runs them all without.
#   do_lines PATIENCE LINE...
do_lines() {
  if [[ -n $dry_run ]]; then
    printf '%s\n' "${@:2}"
  else
    run_together "$@"
  fi
}
