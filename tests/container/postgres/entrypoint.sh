#!/usr/bin/env bash
# POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB and POSTGRES_HOST_AUTH_METHOD as the official image reads them.
set -euo pipefail

if [[ ! -s $PGDATA/PG_VERSION ]]; then
    user=${POSTGRES_USER:-postgres}
    method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    [[ $method == trust || -n ${POSTGRES_PASSWORD:-} ]] || { echo "POSTGRES_PASSWORD is not set" >&2; exit 1; }
    initdb --username="$user" --auth-local=trust --auth-host="$method" --pwfile=<(printf '%s\n' "${POSTGRES_PASSWORD:-unused}") >/dev/null
    printf 'host all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
    if [[ ${POSTGRES_DB:-$user} != postgres ]]; then
        # Off every socket that somebody could see, so that the database is there when the server can first be reached.
        printf 'CREATE DATABASE "%s"\n' "${POSTGRES_DB:-$user}" | postgres --single -jE postgres >/dev/null
    fi
fi
[[ $1 == -* ]] && set -- postgres "$@"
[[ $1 == postgres ]] && { shift; set -- postgres -c listen_addresses='*' "$@"; }
exec "$@"
