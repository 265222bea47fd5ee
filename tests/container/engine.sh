#!/usr/bin/env bash
# A Docker engine for the tests of the container, where there may be none and where no image can be pulled.
#
#   engine.sh up     start dockerd if none answers; make local stand-ins of the base images that can't be pulled
#   engine.sh down   stop the dockerd that `up` started (images stay, so that the next `up` takes a second)
#
# What it had to make it keeps in .build/engine, where `make image` and the tests look: `base` names the stand-in for the
# Dockerfile's base image, `docker-compose` is Debian's Compose. On a machine with an engine, a registry and
# Compose it makes nothing. Needs root, docker.io, iptables and debootstrap only where there is something to do.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly STATE="${ENGINE_STATE:-.build/engine}"
readonly PIDFILE="$STATE/dockerd.pid" LOG="$STATE/dockerd.log"
readonly SUITE=trixie
readonly STAND_IN="debian:$SUITE-slim"       # what the Dockerfiles get as DEBIAN= where the pinned one can't be had
readonly POSTGRES="postgres:17.11-$SUITE"    # the tag that compose.yaml names
readonly START_LIMIT=60                      # seconds for dockerd to answer

say() { printf 'engine.sh: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

engine_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
has_image() { docker image inspect "$1" >/dev/null 2>&1; }
need() { command -v "$1" >/dev/null || die "$1 is missing; the fix: apt-get install --yes $2"; }

# The base image that a Dockerfile names by default: its only home is the Dockerfile.
pinned_base() { sed -n 's/^ARG DEBIAN=//p' Dockerfile; }

start_engine() {
    if engine_answers; then
        say "an engine answers already"
        return
    fi
    need dockerd docker.io
    need iptables iptables
    [[ $EUID == 0 ]] || die "no Docker engine answers, and only root can start one"
    mkdir -p "$STATE"
    setsid dockerd --pidfile "$PWD/$PIDFILE" >"$LOG" 2>&1 </dev/null &
    local pid=$! deadline=$((SECONDS + START_LIMIT))
    until engine_answers; do
        if ! kill -0 "$pid" 2>/dev/null || ((SECONDS > deadline)); then
            tail -n 20 "$LOG" >&2
            die "dockerd did not start within $START_LIMIT s; its log is above"
        fi
        sleep 0.2 # dockerd tells only systemd when it is ready
    done
    say "started dockerd (pid $pid, log $LOG)"
}

stop_engine() {
    [[ -s $PIDFILE ]] || { say "nothing of ours to stop"; return; }
    local pid
    pid=$(<"$PIDFILE")
    # The number may belong to somebody else by now: look before shooting.
    if [[ $(ps -o comm= -p "$pid" || true) == dockerd ]]; then
        kill "$pid"
        timeout 60 tail --pid="$pid" -f /dev/null || die "dockerd (pid $pid) did not end within 60 s"
        say "stopped dockerd (pid $pid)"
    fi
    rm -f "$PIDFILE"
}

# What debian:trixie-slim holds: a minimal Debian without documents and translations. It trusts the certificate
# authorities that this machine trusts: where images can't be pulled, a proxy often stands before everything else too.
unpack_debian() {
    local root=$1 # an empty folder
    need debootstrap debootstrap
    debootstrap --variant=minbase --include=ca-certificates "$SUITE" "$root" >"$STATE/debootstrap.log" 2>&1 ||
        { tail -n 20 "$STATE/debootstrap.log" >&2; die "debootstrap failed; its log is above"; }
    if [[ -d /usr/local/share/ca-certificates ]]; then
        cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
        chroot "$root" update-ca-certificates >/dev/null 2>&1
    fi
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb \
        "$root"/usr/share/{doc,info,man,locale}/*
    # As in the real one: no package leaves documents behind, and apt keeps no archives.
    printf 'path-exclude /usr/share/%s/*\n' doc man info locale >"$root/etc/dpkg/dpkg.cfg.d/slim"
    printf 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };\n' \
        >"$root/etc/apt/apt.conf.d/clean"
}

make_debian() {
    local root
    root=$(mktemp -d)
    # shellcheck disable=SC2064  # expanded now: the name is local
    trap "rm -rf -- '$root'" RETURN
    unpack_debian "$root"
    start_engine
    tar -C "$root" -c . | docker import --change 'CMD ["bash"]' - "$STAND_IN" >/dev/null
    say "made $STAND_IN with debootstrap"
}

ensure_debian() {
    if has_image "$(pinned_base)" || timeout 120 docker pull --quiet "$(pinned_base)" >/dev/null 2>&1; then
        return
    fi
    has_image "$STAND_IN" || make_debian
    printf '%s\n' "$STAND_IN" >"$STATE/base"
}

ensure_postgres() {
    if has_image "$POSTGRES" || timeout 120 docker pull --quiet "$POSTGRES" >/dev/null 2>&1; then
        return
    fi
    DOCKER_BUILDKIT=0 docker build --quiet --build-arg "DEBIAN=$STAND_IN" --tag "$POSTGRES" tests/container/postgres \
        >/dev/null 2>"$STATE/postgres.log" || { tail -n 20 "$STATE/postgres.log" >&2; die "no $POSTGRES; the log is above"; }
    say "made $POSTGRES from Debian's PostgreSQL"
}

# Compose 2, which the stand-in's Debian has as a package: apt fetches it there, verified, and it runs here too.
ensure_compose() {
    if docker compose version >/dev/null 2>&1 || [[ -x $STATE/docker-compose ]]; then
        return
    fi
    docker run --rm "$STAND_IN" bash -euo pipefail -c "
        cd /tmp && { apt-get update && apt-get download docker-compose; } >&2
        dpkg-deb --fsys-tarfile docker-compose_*.deb | tar -xO ./usr/libexec/docker/cli-plugins/docker-compose
    " >"$STATE/docker-compose.new" 2>"$STATE/compose.log" ||
        { tail -n 20 "$STATE/compose.log" >&2; die "can't get Compose from Debian; the log is above"; }
    chmod +x "$STATE/docker-compose.new"
    mv "$STATE/docker-compose.new" "$STATE/docker-compose"
    say "took Compose from Debian $SUITE: $("$STATE/docker-compose" version --short)"
}

main() {
    mkdir -p "$STATE"
    case ${1:-} in
        up)
            need docker docker.io
            start_engine
            ensure_debian
            ensure_postgres
            ensure_compose
            ;;
        down) stop_engine ;;
        *) die "usage: engine.sh up|down" ;;
    esac
}

main "$@"
