# shellcheck shell=bash disable=SC2034
# lib.sh - shared by the peer scripts; sourced, not run.
#
# Conventions every script keeps:
#   SCRIPT.sh start|stop|status DIR      DIR is created; everything the instance writes is in it
#   ports come from the environment; each has a default, and PORT_BASE shifts a script's whole set
#   start returns when the port answers (or fails after START_TIMEOUT seconds, default 20, with the log's tail)
#   DIR/pids/NAME.pid one per process started here; stop ends those and nothing else
#   DIR/connect.env   KEY=VALUE lines telling how to connect (source it from a test)
set -euo pipefail

PEERS_HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PEERS_PREFIX=${MAILTEE_PEERS_PREFIX:-/opt/mailtee-peers}
START_TIMEOUT=${START_TIMEOUT:-20}
LISTEN_ADDR=${LISTEN_ADDR:-127.0.0.1}
export PATH=/usr/sbin:/sbin:$PATH

die()  { echo "${0##*/}: $*" >&2; exit 1; }
need() { local c; for c in "$@"; do command -v "$c" >/dev/null || die "'$c' not found; run install.sh"; done; }
need_root() { [ "$(id -u)" = 0 ] || die "must run as root (the daemon drops privileges itself)"; }
usage() { sed -n '2,/^set -euo/p' "$0" | sed -n 's/^# \{0,1\}//p'; exit "${1:-2}"; }

# peer_args "$@": sets ACTION and DIR (absolute), shifts nothing
peer_args() {
  ACTION=${1:-}; DIR=${2:-${DIR:-}}
  case $ACTION in start|stop|status) ;; -h|--help|help) usage 0 ;; *) usage 2 ;; esac
  [ -n "$DIR" ] || die "no DIR given"
  if [ "$ACTION" = start ]; then mkdir -p "$DIR"; fi
  [ -d "$DIR" ] || { [ "$ACTION" = start ] || { echo "${0##*/}: $DIR: not running (no such directory)"; exit 0; }; }
  DIR=$(cd "$DIR" && pwd)
  # unix sockets inside DIR must fit sun_path (108 bytes)
  [ ${#DIR} -le 70 ] || die "DIR too long for unix sockets inside it (${#DIR} > 70): $DIR"
  mkdir -p "$DIR/pids" "$DIR/log"
}

# Daemons that drop privileges must be able to enter DIR: tempdirs are 0700 by default.
make_traversable() {
  chmod go+rx "$DIR"
  local p=$DIR
  while [ "$p" != / ]; do
    p=$(dirname "$p")
    [ "$(( 0$(stat -c %a "$p") & 1 ))" = 1 ] || die "$p is not searchable by other users (chmod o+x it): daemons that drop root could not reach $DIR"
  done
}

port_open() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }
wait_port() { # HOST PORT [LOGFILE]
  local end=$((SECONDS + START_TIMEOUT))
  until port_open "$1" "$2"; do
    if [ $SECONDS -ge $end ]; then
      echo "${0##*/}: nothing answers on $1:$2 after ${START_TIMEOUT}s" >&2
      [ -z "${3:-}" ] || { echo "--- $3" >&2; tail -n 20 "$3" >&2 || true; }
      "$0" stop "$DIR" >&2 || true
      exit 1
    fi
    sleep 0.05
  done
}
port_free() { # refuse to start on a port that something else answers
  local p; for p in "$@"; do
    if port_open "$LISTEN_ADDR" "$p"; then die "port $LISTEN_ADDR:$p is already in use"; fi
  done
}

# A pid file holds "PID STARTTICKS": a recycled pid is never taken for ours.
start_ticks() { [ -r "/proc/$1/stat" ] && sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
record_pid() { echo "$2 $(start_ticks "$2")" > "$DIR/pids/$1.pid"; }   # NAME PID
pid_of() { [ -r "$DIR/pids/$1.pid" ] && cut -d' ' -f1 "$DIR/pids/$1.pid" || true; }
alive() {
  local p t; [ -r "$DIR/pids/$1.pid" ] || return 1
  read -r p t < "$DIR/pids/$1.pid" || true
  [ -n "$p" ] && kill -0 "$p" 2>/dev/null && [ "$(start_ticks "$p")" = "$t" ] &&
    [ "$(sed 's/^.*) //' "/proc/$p/stat" 2>/dev/null | cut -c1)" != Z ]
}
# spawn NAME CMD...: run in its own session in the background, output to DIR/log/NAME.out
spawn() {
  local name=$1; shift
  setsid "$@" </dev/null >>"$DIR/log/$name.out" 2>&1 &
  record_pid "$name" $!
}
stop_one() { # NAME [SIGNAL]: TERM, wait up to 10 s, then KILL
  local p sig=${2:-TERM} i
  if alive "$1"; then
    p=$(pid_of "$1")
    kill -"$sig" "$p" 2>/dev/null || true
    for i in $(seq 200); do alive "$1" || break; sleep 0.05; done
    if alive "$1"; then kill -KILL "$p" 2>/dev/null || true; fi
  fi
  rm -f "$DIR/pids/$1.pid"
}
stop_all() { local f; for f in "$DIR"/pids/*.pid; do [ -e "$f" ] || continue; f=${f##*/}; stop_one "${f%.pid}"; done; }
status_all() { # prints one line a process; exit 3 if any is down or none was started
  local f n rc=0 any=
  for f in "$DIR"/pids/*.pid; do
    [ -e "$f" ] || continue
    any=1; n=${f##*/}; n=${n%.pid}
    if alive "$n"; then echo "${0##*/}: $n running (pid $(pid_of "$n"))"; else echo "${0##*/}: $n DEAD"; rc=3; fi
  done
  [ -n "$any" ] || { echo "${0##*/}: not running in $DIR"; rc=3; }
  return $rc
}
already_running() { local f; for f in "$DIR"/pids/*.pid; do [ -e "$f" ] || continue; f=${f##*/}; if alive "${f%.pid}"; then die "already running in $DIR (${f%.pid}); stop it first"; fi; done; }

# make_cert DIR/tls: a test CA and a server certificate (cert.pem key.pem ca.pem; fullchain.pem), EC P-256
make_cert() {
  local d=$1; [ -s "$d/cert.pem" ] && return 0
  mkdir -p "$d"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=mailtee test CA" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout "$d/ca-key.pem" -out "$d/ca.pem" 2>/dev/null
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=localhost" \
    -keyout "$d/key.pem" -out "$d/req.pem" 2>/dev/null
  openssl x509 -req -in "$d/req.pem" -CA "$d/ca.pem" -CAkey "$d/ca-key.pem" -CAcreateserial -days 3650 -out "$d/cert.pem" \
    -extfile <(printf 'subjectAltName=DNS:localhost,DNS:mail.mailtee.test,DNS:*.mailtee.test,IP:127.0.0.1,IP:::1\nextendedKeyUsage=serverAuth\n') 2>/dev/null
  cat "$d/cert.pem" "$d/ca.pem" > "$d/fullchain.pem"
  cat "$d/fullchain.pem" "$d/key.pem" > "$d/combined.pem"
  chmod 644 "$d"/*.pem
}
say_env() { # KEY=VALUE...: write DIR/connect.env and print it
  : > "$DIR/connect.env"; local kv
  for kv in "$@"; do printf '%s=%q\n' "${kv%%=*}" "${kv#*=}" >> "$DIR/connect.env"; done
  sed 's/^/  /' "$DIR/connect.env"
}
