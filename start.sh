#!/usr/bin/env bash
# The entrypoint: MLflow on a private socket first; once it is ready, OAuth2 Proxy on the public port (with HTTP2=true: on
# a private socket too, behind gatehouse-listener). Any one ending ends all. With arguments it runs these instead: start.sh gatehouse doctor
# Exit codes: src/gatehouse/exit_codes.py and README.md.
set -euo pipefail

readonly SERVER_ENDED=70 PROXY_ENDED=71 CUT_OFF=72 CANNOT_CREATE=73 NOT_READY=75 SETTINGS=78
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
RUN_DIRECTORY=''
server_pid='' proxy_pid='' listener_pid=''

main() {
  if (($# > 0)); then exec "$@"; fi
  require_tools
  make_run_directory
  check_and_render
  trap stop TERM INT
  start_server
  wait_until_ready
  start_proxy
  start_listener
  wait_for_any
}

say() { printf 'start.sh: %s\n' "$*" >&2; }

# fail CODE MESSAGE FIX
fail() {
  say "error: $2"
  printf '    fix: %s\n' "$3" >&2
  exit "$1"
}

require_tools() {
  if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 501)); then
    fail "$SETTINGS" "bash is $BASH_VERSION; 'wait -n -p' needs 5.1" 'use the container image, or install a newer bash'
  fi
  local tool
  for tool in gatehouse setsid; do
    command -v "$tool" >/dev/null ||
      fail "$SETTINGS" "$tool is not on PATH" "use the container image, or 'make run' on Linux, which finds what is needed"
  done
}

make_run_directory() {
  RUN_DIRECTORY=$(mktemp -d "${TMPDIR:-/tmp}/gatehouse.XXXXXX") ||
    fail "$CANNOT_CREATE" "can't make a folder in ${TMPDIR:-/tmp}" 'mount a small tmpfs there, or set TMPDIR to a folder that can be written to'
  trap 'rm -rf "$RUN_DIRECTORY"' EXIT
}

check_and_render() {
  gatehouse prepare --template "$HERE/oauth2_proxy.cfg.tmpl" --run-directory "$RUN_DIRECTORY" || exit
}

# become NAME COMMAND...: turn this subshell into the command, with exactly the environment prepared for NAME,
# in a session of its own: Ctrl-C reaches start.sh alone, and the command's processes can be ended as a group.
become() {
  local file=$RUN_DIRECTORY/$1.env name assignment
  shift
  for name in $(compgen -e); do unset "$name"; done
  while IFS= read -r -d '' assignment; do export "${assignment?}"; done <"$file"
  rm "$file"
  exec setsid "$@"
}

start_server() {
  # The coprocess's pipe carries one word, "ready"; its end of file says that the server is dead.
  exec {stdout}>&1
  coproc SERVER {
    become server gatehouse serve --run-directory "$RUN_DIRECTORY" --ready-fd 3 3>&1 >&"$stdout" </dev/null
  }
  # shellcheck disable=SC2153  # bash sets it
  server_pid=$SERVER_PID
  exec {ready}<&"${SERVER[0]}"
}

wait_until_ready() {
  local limit=${STARTUP_TIMEOUT:-120} answer='' status=0
  read -r -t "$limit" -u "$ready" answer || status=$?
  if [[ $answer == ready ]]; then return; fi
  if ((status > 128)); then
    kill_all
    fail "$NOT_READY" "MLflow isn't ready after $limit s" 'see its log above; raise STARTUP_TIMEOUT if it is only slow'
  fi
  status=0
  wait "$server_pid" || status=$?
  # 64 to 78 are the server's own, and it has said why.
  if ((status >= 64 && status <= 78)); then exit "$status"; fi
  fail "$SERVER_ENDED" "MLflow ended before it was ready ($(describe "$status"))" 'see its log above'
}

start_proxy() {
  (become proxy oauth2-proxy --config="$RUN_DIRECTORY/proxy.cfg") &
  proxy_pid=$!
}

# It opens the public port once the proxy's socket is there.
start_listener() {
  if [[ ! -e $RUN_DIRECTORY/listener.env ]]; then return; fi
  (become listener gatehouse-listener) &
  listener_pid=$!
}

wait_for_any() {
  local ended='' status=0
  wait -n -p ended "$server_pid" "$proxy_pid" ${listener_pid:+"$listener_pid"} || status=$?
  kill_all
  if [[ ${ended:-} == "$server_pid" ]]; then
    fail "$SERVER_ENDED" "MLflow ended ($(describe "$status")); stopped OAuth2 Proxy" 'see the log above; the platform starts a fresh container'
  fi
  local name='OAuth2 Proxy'
  if [[ ${ended:-none} == "$listener_pid" ]]; then name='the HTTP/2 listener'; fi
  fail "$PROXY_ENDED" "$name ended ($(describe "$status")); stopped MLflow" 'see the log above; the platform starts a fresh container'
}

# TERM or INT: what clients see first, which finishes its requests with the others still there; MLflow last.
stop() {
  local timer pid ended='' code=0
  trap '' TERM INT
  sleep "${SHUTDOWN_TIMEOUT:-8}" &
  timer=$!
  for pid in $listener_pid $proxy_pid $server_pid; do
    kill -TERM "$pid" 2>/dev/null || continue
    # Unset by wait if the process was reaped before.
    wait -n -p ended "$pid" "$timer" || true
    if [[ ${ended:-} == "$timer" ]]; then
      say "requests were still running after ${SHUTDOWN_TIMEOUT:-8} s: cut off"
      code=$CUT_OFF
      break
    fi
  done
  kill "$timer" 2>/dev/null || true
  kill_all
  exit "$code"
}

kill_all() {
  local pid
  for pid in $listener_pid $proxy_pid $server_pid; do kill -KILL -- "-$pid" 2>/dev/null || true; done
}

describe() {
  if (($1 > 128)); then printf 'signal %s' "$(kill -l "$1")"; else printf 'exit code %s' "$1"; fi
}

# Sourced, it defines its functions and runs nothing: the tests call them one by one.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then main "$@"; fi
