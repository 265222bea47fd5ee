#!/bin/sh
# The entrypoint: checks all settings, starts MLflow on a private socket and, once it is ready, OAuth2 Proxy on the public port
# (src/gatehouse/start/supervisor.py). Any one ending ends all. With arguments it runs these instead: start.sh gatehouse doctor
# Exit codes: src/gatehouse/exit_codes.py and README.md.
# It is sh, which reads no SHELLOPTS, BASHOPTS or BASH_ENV of the caller's.
set -eu

main() {
  if [ $# -gt 0 ]; then exec "$@"; fi
  require_gatehouse
  # Meant for another program's Python: they make warnings errors, or an interpreter that doesn't end.
  unset PYTHONWARNINGS PYTHONINSPECT PYTHONSTARTUP PYTHONDEVMODE
  exec gatehouse start --template "$(dirname "$0")/oauth2_proxy.cfg.tmpl"
}

require_gatehouse() {
  if command -v gatehouse >/dev/null; then return; fi
  echo "start.sh: error: gatehouse is not on PATH" >&2
  echo "    fix: use the container image, or 'make run' on Linux, which finds what is needed" >&2
  exit 78 # Exit.SETTINGS
}

main "$@"
