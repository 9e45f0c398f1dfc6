r"""Shell programs for sandboxes without a Python (layer 4, docker).

They run through the engine's exec and need a POSIX ``sh`` (dash, busybox and bash were tried) with the usual
small tools: ``cat``, ``chmod``, ``env``, ``find``, ``id``, ``ls``, ``mkdir``, ``mv``, ``readlink``, ``rm``,
``rmdir``, ``sleep`` and ``stat -c``; ``head -c`` and ``tail`` for parts of files, ``tar`` if there is one. What they
work on comes as arguments, never as text of the program. The first argument says how the others are written: ``p``
plainly, ``b`` in the escapes of ``printf '%b'``, for bytes that are not UTF-8 and would not survive the engine's JSON.

All but `RUN` answer on stdout, after a ``+`` that distinguishes it from a message of the engine, and on stderr with messages of
the tools they use, perhaps a line ``errno=N``, and always a last line ``end=CODE``. Variables of `RUN` begin with
``encl_``, since a shell passes a changed variable on if it was in its environment.
"""

from __future__ import annotations

LIFELINE = r"""
trap '' HUP INT QUIT TERM ALRM PIPE
trap 'asked=1; kill -STOP -1 2>/dev/null; kill -CONT "$cat" 2>/dev/null; echo stopped' USR1
trap 'asked=1; kill -CONT -1 2>/dev/null' USR2
exec 3<&0
while :; do
  ENCLAVE_CALL=lifeline cat <&3 >/dev/null 2>&1 &
  cat=$! asked=1 last=0
  while [ -n "$asked" ]; do
    asked=
    wait "$cat"
    code=$?
    [ "$code" -eq 127 ] || last=$code
  done
  [ "$last" -gt 128 ] || exit 0
done
"""
"""Process 1: waits for the end of its input. A shell that waits also reaps the orphans that become its children,
which ``cat`` alone would not; a ``cat`` that a guest killed is started again.

SIGUSR1 stops every other process of the sandbox at once, and says so on stdout when it is done: a signal from process 1
to all others meets those that are being forked, too, so that even a fork bomb stands still while it is cleaned away.
SIGUSR2 lets what is left continue."""

_ARGUMENTS = r"""
if [ "$1" = b ]; then
  shift
  encl_i=0 encl_args=
  for encl_a do
    encl_i=$((encl_i + 1))
    encl_a=$(printf '%b.' "$encl_a")
    eval "encl_a$encl_i=\${encl_a%.}"
    encl_args="$encl_args \"\$encl_a$encl_i\""
  done
  eval "set -- $encl_args"
else
  shift
fi
"""

_PRELUDE = (
    r"""
trap 'printf "\nend=%s\n" "$?" >&2' EXIT
printf +
"""
    + _ARGUMENTS
    + r"""
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
umask 022
nl='
'
fail() { printf 'errno=%s\n' "$1" >&2; exit 1; }
there() { [ -e "$1" ] || [ -L "$1" ]; }
ends_well() { case $1 in */) ! there "${1%"${1##*[!/]}"}" ;; esac; }
enter() { cd -P "$1" 2>/dev/null || { ls -d "$1/." >/dev/null && fail 13; exit 1; }; }
"""
)

RUN = (
    r"""
trap : HUP INT QUIT TERM USR1 USR2 ALRM PIPE
read -r encl_mark
exec 5>&1 6>&2 2>/dev/null
"""
    + _ARGUMENTS
    + r"""
encl_count() { encl_n=$#; }
if [ -n "$1" ]; then
  encl_count /proc/[0-9]*
  if [ "$encl_n" -ge "$1" ]; then
    printf '%sn;' "$encl_mark" >&5
    printf '%sn;' "$encl_mark" >&6
    exit 0
  fi
fi
shift
encl_cwd=$1 encl_input=$2 encl_path=$3 encl_name=$4 encl_user=$5 encl_at=$6 encl_place=$7 encl_suffix=$8 encl_text=$9
shift 9
encl_nl='
'
encl_end() {
  [ -z "$encl_dir" ] || rm -rf "$encl_dir"
  printf '%s%s;' "$encl_mark" "$1" >&5
  printf '%s%s;' "$encl_mark" "$1" >&6
  # The engine closes the outputs soon after its program has gone, and what was left in the background would die of that.
  encl_pause=1
  while encl_left_any; do
    sleep "$encl_pause" || exit 0
    [ "$encl_pause" -ge 30 ] || encl_pause=$((encl_pause * 2))
  done
  exit 0
}
encl_left_any() {
  for encl_a in /proc/[0-9]*; do
    [ "$encl_a" != "/proc/$$" ] && [ -r "$encl_a/environ" ] || continue
    while IFS= read -r encl_line || [ -n "$encl_line" ]; do
      case $encl_line in *"ENCLAVE_CALL=$ENCLAVE_CALL"*) return 0 ;; esac
    done < "$encl_a/environ"
  done
  return 1
}
encl_started() {
  read -r encl_line < "/proc/$$/stat"
  set -- ${encl_line##*) }
  printf '%sr:%s:%s;' "$encl_mark" "$$" "${20}" >&5
}
encl_ooms() {
  encl_oom=0
  for encl_file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
    [ -r "$encl_file" ] || continue
    while read -r encl_key encl_value; do
      [ "$encl_key" != oom_kill ] || encl_oom=$encl_value
    done < "$encl_file"
    break
  done
}
encl_try() {
  if [ -f "$1" ] && [ -x "$1" ]; then encl_found=$1; elif [ -e "$1" ]; then encl_worst=13; fi
}
encl_dir=
if [ -n "$encl_cwd" ]; then
  case $encl_cwd in /*) ;; *) encl_cwd=./$encl_cwd ;; esac
  cd -P "$encl_cwd" || { LC_ALL=C ls -d "$encl_cwd/." >/dev/null 2>&6; encl_end c; }
  unset OLDPWD
fi
if [ -n "$encl_user" ]; then
  USER=$(id -un || id -u)
  LOGNAME=$USER
  export USER LOGNAME
fi
encl_value=
if [ -n "$encl_place" ]; then
  for encl_dir in /tmp /var/tmp /dev/shm "$PWD" ''; do
    [ -n "$encl_dir" ] || encl_end s
    encl_dir=$encl_dir/$encl_place
    encl_value=$encl_dir/main$encl_suffix
    ( umask 077 && mkdir "$encl_dir" && printf '%s' "$encl_text" > "$encl_value" ) && break
    rm -rf "$encl_dir"
  done
elif [ -z "$encl_name" ]; then
  encl_value=$(command -v bash || command -v sh)
  encl_name=$encl_value
fi
if [ -n "$encl_at" ]; then
  # All arguments are set at once: one by one, each would be copied as often as there are arguments.
  encl_i=0 encl_args=
  while [ "$encl_i" -lt "$#" ]; do
    encl_a=$((encl_i + 1))
    encl_line="\${$encl_a}"
    [ "$encl_i" -ne "$encl_at" ] || encl_line='$encl_value'
    encl_args="$encl_args \"$encl_line\""
    encl_i=$encl_a
  done
  eval "set -- $encl_args"
fi
encl_found= encl_worst=2
case $encl_name in
*/*) encl_try "$encl_name" ;;
*)
  [ -n "$encl_path" ] || encl_path=${PATH:-/usr/local/bin:/usr/bin:/bin}
  encl_path=$encl_path:
  while [ -n "$encl_path" ] && [ -z "$encl_found" ]; do
    encl_line=${encl_path%%:*}
    encl_path=${encl_path#*:}
    encl_try "${encl_line:-.}/$encl_name"
  done
  ;;
esac
[ -n "$encl_found" ] || encl_end "m:$encl_worst"
if [ -n "$encl_input" ]; then exec 7<&0; else exec 7</dev/null; fi
encl_ooms
encl_before=$encl_oom
encl_started
encl_said=$(sh -c 'trap : HUP INT QUIT TERM USR1 USR2 ALRM PIPE
[ -z "$BASH_VERSION" ] || set +o posix
( exec "$@" <&7 >&5 2>&6 5>&- 6>&- 7<&- )
printf "\n%s" "$?"' enclave "$@" 2>&1)
encl_code=${encl_said##*"$encl_nl"}
encl_said=${encl_said%"$encl_nl"*}
case $encl_code in '' | *[!0-9]*) encl_code=137 encl_said=Killed ;; esac
encl_signal=0
[ "$encl_code" -le 128 ] || [ -z "$encl_said" ] || encl_signal=1
encl_killed=0
if [ "$encl_code" -eq 137 ]; then
  encl_ooms
  [ "$encl_oom" -le "$encl_before" ] || encl_killed=1
fi
encl_end "e:$encl_code:$encl_signal:$encl_killed"
"""
)
"""A command. Its input begins with a line of its own: a secret mark. The mark, fields and ``;`` come on stdout when
the program starts (``r:PID:START``, of this shell), and at the end of both outputs: ``e:CODE:BY_SIGNAL:BY_OOM``,
or ``m:ERRNO`` (no such program), ``n`` (too many processes run), ``c`` (no such working directory; why stands on
stderr), ``s`` (nowhere to write the script). A program that leaves others behind which hold its outputs has ended
all the same, and what it wrote before is complete, since the pipes keep the order.

Arguments: from how many processes on it is not to be started, or nothing; working directory or nothing, ``1`` for
input, search path for the program (its environment's), the program's name (nothing for a shell), ``1`` to set
USER, where in the command the file's or shell's path goes, name of the script's directory, its suffix, its text;
then the command. A shell says nothing of how its child ended but the code, in which exit code 139 and signal 11
are one; but it prints a line for a signal (bash not in its POSIX mode), and that is caught here. None does for
SIGINT and SIGPIPE."""

_PROCESSES = r"""
look() {
  # Sets what the process $1 is: state, ppid, start, and call, the mark of the call it belongs to. False: it has gone.
  { read -r line < "/proc/$1/stat"; } 2>/dev/null || return 1
  p=$1
  set -- ${line##*) }
  state=$1 ppid=$2 start=${20} call=
  case $state in Z | X | x) return 1 ;; esac
  { while IFS= read -r line || [ -n "$line" ]; do
      case $line in *ENCLAVE_CALL=*) call=${line##*ENCLAVE_CALL=} ;; esac
    done < "/proc/$p/environ"; } 2>/dev/null
  return 0
}
"""

KILL = (
    _PRELUDE
    + _PROCESSES
    + r"""
id=$1 root=$2 since=$3 place=$4 asks=$5
round=0 hopeless=' '
while [ "$round" -lt 300 ]; do
  victims=' ' fresh=
  for p in /proc/[0-9]*; do
    p=${p#/proc/}
    [ "$p" != 1 ] && [ "$p" != "$$" ] && look "$p" || continue
    case $hopeless in *" $p "*) continue ;; esac
    if [ "$p" != "$root" ]; then
      case $call in
      "$id"*) ;;
      '')
        case $victims in
        *" $ppid "*) ;;
        *) [ "$ppid" = 1 ] && [ -n "$since" ] && [ "$start" -ge "$since" ] || continue ;;
        esac
        ;;
      *) continue ;;
      esac
    fi
    victims="$victims$p "
    case $state in T | t) ;; *) fresh="$fresh $p" ;; esac
  done
  [ "$victims" != ' ' ] || break
  if [ -n "$asks" ]; then
    for p in $victims; do kill -TERM "$p" 2>/dev/null; done
    exit 0
  fi
  if [ "$round" -gt 1 ] && [ -n "$fresh" ]; then
    kill -STOP $fresh 2>/dev/null
  else
    for p in $victims; do kill -KILL "$p" 2>/dev/null || hopeless="$hopeless$p "; done
  fi
  round=$((round + 1))
done
if [ -n "$place" ]; then
  for p in /tmp /var/tmp /dev/shm; do [ ! -d "$p/$place" ] || rm -rf "$p/$place"; done
fi
[ "$round" -lt 300 ]
"""
)
"""Kills what belongs to a call, until nothing is left: what carries its mark in the environment, what descends from
that, and, since a daemon may have cleared its environment, orphans without any mark that are younger than the call.
Arguments: the call's mark, its shell's pid and start time (clock ticks since boot), or nothing, the name of its
script's directory, and ``1`` to send SIGTERM once instead. Needs no process but its own, so it also works at the
process limit; what forks faster than it is killed is stopped first."""

CLEAN = (
    _PRELUDE
    + _PROCESSES
    + r"""
all=$1
shift
kept=" $* "
round=0 ended=' ' count=0
while [ "$round" -lt 300 ]; do
  victims=
  for p in /proc/[0-9]*; do
    p=${p#/proc/}
    [ "$p" != 1 ] && [ "$p" != "$$" ] && look "$p" && [ "$ppid" != "$$" ] || continue
    case $call in lifeline* | "$ENCLAVE_CALL"*) continue ;; esac
    [ -n "$call" ] || [ -n "$all" ] || continue
    case $kept in *" ${call:-none} "*) continue ;; esac
    victims="$victims $p"
    case $ended in *" $p "*) ;; *) ended="$ended$p " count=$((count + 1)) ;; esac
  done
  [ -n "$victims" ] || break
  if [ "$round" -gt 1 ]; then kill -STOP $victims 2>/dev/null; fi
  kill -KILL $victims 2>/dev/null
  round=$((round + 1))
done
held=0 limit=0
for place in /sys/fs/cgroup /sys/fs/cgroup/memory; do
  [ -r "$place/memory.stat" ] || continue
  before=
  if [ -r "$place/memory.current" ]; then
    read -r held < "$place/memory.current"
    read -r limit < "$place/memory.max"
  else
    before=total_
    read -r held < "$place/memory.usage_in_bytes"
    read -r limit < "$place/memory.limit_in_bytes"
  fi
  while read -r name value; do
    case $name in "${before}inactive_file" | "${before}active_file") held=$((held - value)) ;; esac
  done < "$place/memory.stat"
  break
done
case $limit in max | '') limit=0 ;; esac
[ "$held" -ge 0 ] || held=0
printf '%s %s %s' "$count" "$held" "$limit"
[ "$round" -lt 300 ]
"""
)
"""Kills what calls have left, and answers how many processes that were, and how much memory is held of how much (0 is no limit).

Arguments: ``1`` where all that has no mark belongs to calls, too; the marks of calls that continue."""

TERMINATE = (
    _PRELUDE
    + _PROCESSES
    + r"""
asked=
while :; do
  alive=
  for p in /proc/[0-9]*; do
    p=${p#/proc/}
    [ "$p" != 1 ] && [ "$p" != "$$" ] && look "$p" && [ "$ppid" != "$$" ] || continue
    case $call in '' | lifeline* | "$1"*) continue ;; esac
    alive=1
    [ -n "$asked" ] || kill -TERM "$p" 2>/dev/null
  done
  [ -n "$alive" ] || exit 0
  asked=1
  sleep 0.05 2>/dev/null || sleep 1
done
"""
)
"""Sends SIGTERM to everything that calls have started, and waits until it has ended. Argument: this call's own mark."""

IDENTITY = _PRELUDE + 'id -u && id -g\n'

STAT_FORMAT = '%f %s %Y %u %g %y'
"""Mode in hexadecimal, size, modification time in seconds, owner, group, modification time for its fraction of a
second."""

STAT = (
    _PRELUDE
    + r"""
if [ -n "$2" ]; then
  stat -L -c "$3" -- "$1" || exit 1
  printf '\0'
  readlink -f -- "$1"
else
  stat -c "$3" -- "$1" || exit 1
  printf '\0'
  [ ! -L "$1" ] || readlink -- "$1"
fi
exit 0
"""
)
"""Arguments: path, ``1`` to follow symlinks, `STAT_FORMAT`. Answers a line of facts, NUL, and the real path or the
symlink's target."""

LIST = (
    _PRELUDE
    + r"""
enter "$1"
[ -r . ] || fail 13
format=$3
each='f=$1; shift
printf "%s\0" "$@" ""
stat -c "$f /%n" -- "$@"
printf "\0"
for p do [ ! -L "$p" ] || { printf "%s\0=" "$p"; readlink -- "$p"; printf "\0"; }; done
printf "\0"'
if [ -n "$2" ]; then
  find . ! -name . -exec sh -c "$each" enclave "$format" {} +
else
  find . ! -name . -prune -exec sh -c "$each" enclave "$format" {} +
fi 2>/dev/null
exit 0
"""
)
"""Arguments: path, ``1`` for all below, `STAT_FORMAT`. Answers batches of NUL-ended fields: names, an empty one,
their facts (lines, in the same order, of those that were still there), then name and ``=target`` of each symlink, an
empty one. No name can be taken for anything else."""

READ = (
    _PRELUDE
    + r"""
if [ -d "$1" ]; then fail 21; fi
[ -e "$1" ] || { stat -L -c %s -- "$1" && fail 2; exit 1; }
if [ ! -f "$1" ]; then printf 'irregular\n' >&2; fail 22; fi
[ -r "$1" ] || fail 13
if [ "$2" -gt 2147483647 ]; then
  # So far into a file a small tail does not count; a small dd does, in large steps.
  [ "$(stat -L -c %s -- "$1")" -ge "$2" ] || exit 0
  m=1048576 n=$(($2 - 1))
  dd if="$1" bs=$m skip=$((n / m)) 2>/dev/null | tail -c "+$((n % m + 1))" | if [ -n "$3" ]; then head -c "$3"; else cat; fi
elif [ -z "$3" ]; then
  if [ "$2" = 1 ]; then cat -- "$1"; else tail -c "+$2" -- "$1"; fi
elif [ "$2" = 1 ]; then
  head -c "$3" -- "$1"
else
  tail -c "+$2" -- "$1" 2>/dev/null | head -c "$3"
fi
"""
)
"""Arguments: path, number of the first byte (from 1), how many bytes or nothing for all."""

_FINISH = r"""
finish() {
  # Give the file $2, when it was written beside, the owner and mode of its place $1, and put it there. $3: mode or nothing.
  if [ "$1" != "$2" ]; then
    mode=$3
    if [ -f "$1" ]; then
      chown "$(stat -c %u:%g -- "$1")" "$2" 2>/dev/null
      [ -n "$mode" ] || mode=$(stat -c %a -- "$1")
    fi
    chmod "${mode:-644}" "$2" || { rm -f -- "$2"; exit 1; }
    if ! mv -f -- "$2" "$1"; then
      # The place is a mount of its own (a bound file): only its contents can be replaced.
      [ -f "$1" ] && cat -- "$2" > "$1" || { rm -f -- "$2"; exit 1; }
      rm -f -- "$2"
    fi
  elif [ -n "$3" ]; then
    chmod "$3" "$1" || exit 1
  fi
  stat -c %s -- "$1"
}
"""

WRITE = (
    _PRELUDE
    + _FINISH
    + r"""
t=$1 size=$2 append=$3 exclusive=$4 parents=$5 mode=$6 name=$7
case $t in */) fail 21 ;; esac
n=0
while [ -L "$t" ]; do
  n=$((n + 1))
  [ "$n" -le 40 ] || fail 40
  l=$(readlink -- "$t" && printf .) || exit 1
  l=${l%.}
  l=${l%"$nl"}
  case $l in /*) t=$l ;; *) t=${t%/*}/$l ;; esac
done
parent=${t%/*}
[ -n "$parent" ] || parent=/
if [ ! -d "$parent" ]; then
  if [ -n "$parents" ]; then mkdir -p -- "$parent" || exit 1; else ls -d "$parent/." >/dev/null; exit 1; fi
fi
case $(cd -P "$parent" && pwd -P)/ in /proc/*) fail 1 ;; esac
out=$t made=
if [ -n "$exclusive" ]; then
  if [ -e "$t" ]; then fail 17; fi
  ( set -C; : > "$t" ) || exit 1
  made=1
else
  if [ -d "$t" ]; then fail 21; fi
  if [ -e "$t" ] && [ ! -f "$t" ]; then fail 22; fi
  if [ -z "$append" ] && { [ -w "$parent" ] || [ ! -e "$t" ]; }; then
    out=${parent%/}/$name
    ( umask 077; set -C; : > "$out" ) || exit 1
    made=1
  fi
fi
if [ -n "$append" ]; then ( cat >> "$t" ) || exit 1
else ( cat > "$out" ) || { [ -z "$made" ] || rm -f -- "$out"; exit 1; }
fi
if [ -z "$size" ] && [ -n "$made" ]; then
  printf '%s\0' "$t" "$out"
  exit 0
fi
if [ -n "$made" ] && [ "$(stat -c %s -- "$out")" != "$size" ]; then
  rm -f -- "$out"
  printf 'short\n' >&2
  fail 5
fi
finish "$t" "$out" "$mode"
"""
)
"""Arguments: path, size or nothing, ``1`` for each of append, exclusive and parents, mode or nothing, name of a file
beside. Answers the size. Of a size that was not known before, the end of input does not prove that all came; then it
answers the place and the file beside it, NUL after each, for `COMMIT` or `DISCARD`."""

COMMIT = _PRELUDE + _FINISH + 'finish "$1" "$2" "$3"\n'
DISCARD = _PRELUDE + 'rm -rf -- "$1"\n'

REMOVE = (
    _PRELUDE
    + r"""
there "$1" || { stat -c %s -- "$1" && exit 0; exit 1; }
if [ -d "$1" ] && [ ! -L "$1" ]; then
  if [ -n "$2" ]; then rm -rf -- "$1"; else rmdir -- "$1"; fi
else
  rm -f -- "$1"
fi
"""
)
"""Arguments: path, ``1`` for whole trees."""

MAKE_DIR = (
    _PRELUDE
    + r"""
if [ -n "$2" ]; then mkdir -p -- "$2" || exit 1; fi
if there "$1"; then
  [ -n "$3" ] && [ -d "$1" ] && exit 0
  fail 17
fi
mkdir -m "$4" -- "$1"
"""
)
"""Arguments: path, its parent to be made too or nothing, ``1`` if it may exist, mode."""

MOVE = (
    _PRELUDE
    + r"""
s=$1 t=$2
there "$s" || { printf 'source\n' >&2; stat -c %s -- "$s"; exit 1; }
case $s in */) s=${s%"${s##*[!/]}"} s=${s:-/}; [ ! -L "$s" ] || { printf 'source\n' >&2; fail 20; } ;; esac
if [ -d "$t" ]; then t=${t%/}/$3; else ends_well "$t" || fail 20; fi
case $t in */) if [ -d "$s" ] && [ ! -L "$s" ]; then t=${t%"${t##*[!/]}"}; fi ;; esac
if there "$t"; then
  [ -n "$4" ] || fail 17
  [ "$s" != "$t" ] || exit 0
  if [ -d "$t" ] && [ ! -L "$t" ]; then
    if [ ! -d "$s" ] || [ -L "$s" ]; then fail 21; fi
    rmdir -- "$t" || exit 1
  elif [ -d "$s" ] && [ ! -L "$s" ]; then
    fail 20
  fi
else
  [ -d "${t%/*}/" ] || { ls -d "${t%/*}/." >/dev/null; exit 1; }
fi
mv -f -- "$s" "$t"
"""
)
"""Arguments: source, target, the source's own name, ``1`` to overwrite. ``source`` on stderr: what failed is about
that."""

COPY_PATH = (
    _PRELUDE
    + r"""
b=$1 s=${2%"${2##*[!/]}"} t=${3%"${3##*[!/]}"}
s=${s:-/} t=${t:-/}
n=${s##*/}
there "$2" || { printf 'first\n' >&2; stat -c %s -- "$2"; exit 1; }
case $2 in */) [ ! -L "$s" ] || s=$s/. ;; esac
if [ -d "$t" ]; then t=${t%/}/$n; else ends_well "$3" || fail 20; fi
if there "$t"; then [ -n "$5" ] || fail 17; fi
case $t in */*) d=${t%/*}/ ;; *) d=./ ;; esac
[ -d "$d" ] || { ls -d "$d." >/dev/null; exit 1; }
if [ -d "$s" ] && [ ! -L "$s" ]; then
  [ -n "$4" ] || { printf 'first\n' >&2; fail 21; }
  case $(cd -P "$d" && pwd -P)/ in "$(cd -P "$s" && pwd -P)"/*) fail 22 ;; esac
  if there "$t"; then
    { [ -d "$t" ] && [ ! -L "$t" ]; } || fail 20
    [ -z "$(ls -A "$t")" ] || fail 39
  fi
else
  if [ -d "$t" ] && [ ! -L "$t" ]; then fail 21; fi
fi
[ -z "$(find "$s" ! -type f ! -type d ! -type l | head -n 1)" ] || { printf 'first\nirregular\n' >&2; fail 22; }
b=$d$b
cp -RPp "$s" "$b" || { rm -rf "$b"; exit 1; }
[ ! -d "$t" ] || [ -L "$t" ] || rmdir "$t"
mv -f "$b" "$t" || { rm -rf "$b"; exit 1; }
"""
)
"""Arguments: a name for what is made beside its place, and then the fields of the request, as `EngineOperations.run_other` gives
them: source, target, ``1`` for whole trees, ``1`` to overwrite. ``first`` on stderr: what failed is about the first
path; ``irregular``: it is, or holds, no regular file."""

PACK = (
    _PRELUDE
    + r"""
there "$1" || { stat -c %s -- "$1"; exit 1; }
command -v tar >/dev/null || fail 38
if [ -d "$1" ] && [ ! -L "$1" ]; then
  enter "$1"
  printf d
  tar -cf - .
else
  enter "$2"
  printf f
  tar -cf - "./$3"
fi
"""
)
"""Arguments: path, its directory, its name. Answers ``d`` or ``f``, for names beginning at ``.`` or at
the path's own, and a tar archive; errno 38 if there is no tar."""

PLACE = (
    _PRELUDE
    + r"""
[ -d "$1" ] || mkdir -p -- "$1" || exit 1
enter "$1"
root=$(pwd -P)
shift
i=0
for d do
  rest=$d done=. link=
  while [ -n "$rest" ]; do
    done=$done/${rest%%/*}
    case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
    [ ! -L "$done" ] || link=$done
  done
  if [ -n "$link" ]; then
    case $(cd -P "$link" 2>/dev/null && pwd -P)/ in
    "${root%/}"/*) ;;
    *) printf 'outside=%s\n' "$i" >&2; exit 1 ;;
    esac
  fi
  i=$((i + 1))
done
command -v tar >/dev/null && printf 'tar'
printf '\0%s' "$root"
"""
)
"""Arguments: a directory, which is made, and relative directories in it that must not lead out of it;
``outside=INDEX`` on stderr names one that does. Answers ``tar`` if there is one, NUL, and the directory's real
path."""

UNPACK = (
    _PRELUDE
    + r"""
enter "$1"
tar -xpf -
"""
)
"""Argument: the directory. Input: a tar archive."""

KEEP_SCRIPT = (
    _PRELUDE
    + r"""
umask 077
for d in /tmp /var/tmp /dev/shm "$PWD"; do
  mkdir "$d/$1" 2>/dev/null || continue
  if ( cat > "$d/$1/main$2" ); then printf '%s' "$d/$1/main$2"; exit 0; fi
  rm -rf "$d/$1"
  exit 1
done
fail 30
"""
)
"""Arguments: name of a private directory to make, suffix. Input: the program text. Answers the file's path."""
