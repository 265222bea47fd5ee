#!/usr/bin/env bash
# Pin every Python dependency by version and hash. Run by `make lock`; reads the .in files, writes the .txt files.
# What is pinned stays, unless it no longer fits; `make lock UPGRADE=1` takes the newest of everything.
# No index address is written: the files serve any mirror.
set -euo pipefail
cd "$(dirname "$0")"
compile() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header ${UPGRADE:+--upgrade} "$@"; }
compile uv.in --output-file uv.txt
compile dev.in --output-file dev.txt
# The server's versions are the developer's versions, less what its override drops.
compile server.in --constraint dev.txt --override not-in-server.txt --output-file server.txt
compile all-stores.in --constraint dev.txt --override not-in-server.txt --output-file all-stores.txt
compile provider.in --constraint dev.txt --output-file provider.txt
compile plain.in --constraint dev.txt --output-file plain.txt
compile node.in --output-file node.txt
compile older-mlflow.in --output-file older-mlflow.txt
compile neighbours.in --output-file neighbours.txt
compile neighbours-heavy.in --output-file neighbours-heavy.txt
