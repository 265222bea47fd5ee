#!/usr/bin/env bash
# What another release of MLflow would break: make upstream-check MLFLOW=3.16.0
# The private names first, then whether the server starts with it at all, then the tests that hold what the names do;
# at the end each reason once (tests/upstream/report.py). An environment of its own, in .build/upstream.
# Exits with 1 if anything would break, and with 69 if that release can't be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly VERSION=${1:?usage: against.sh VERSION, for example 3.16.0}
readonly PLACE=.build/upstream/$VERSION
# Beside the guards that names.py lists: every operation has a class, a stamp and the same answer on both ways.
readonly MORE=(tests/upstream tests/access/test_routes.py tests/access/test_stamping.py tests/upstream/test_mlflow_contract.py)
# A start, a token, a request: without these, the other tests only say so once more.
readonly FIRST=(tests/gate/test_tokens.py::test_a_good_token_next_to_it_still_works)
# What is about the pinned release and no other.
readonly PINNED=(
  --deselect tests/upstream/test_mlflow_contract.py::test_the_installed_mlflow_is_the_pinned_one
  --ignore tests/upstream/test_patches.py
)

main() {
  prepare || { echo "against.sh: error: MLflow $VERSION can't be installed; fix: see above" >&2; exit 69; }
  local status=0 guards
  "$PLACE/bin/python" -m gatehouse.upstream.names || status=1
  if ! check first "${FIRST[@]}"; then
    echo "Gatehouse doesn't start with MLflow $VERSION, so nothing else was tried: see above"
    exit 1
  fi
  mapfile -t guards < <("$PLACE/bin/python" -c \
    'from gatehouse.upstream.names import NAMES; print(*sorted({name.guard for name in NAMES}), sep="\n")')
  check all --tb=no --no-summary "${PINNED[@]}" "${MORE[@]}" "${guards[@]}" || status=1
  "$PLACE/bin/python" -m tests.upstream.report "$PLACE/all.xml"
  exit "$status"
}

# check REPORT ARGUMENTS...: run tests; the report goes to $PLACE/REPORT.xml.
check() {
  "$PLACE/bin/python" -m pytest -q --no-header -p no:cacheprovider --junitxml "$PLACE/$1.xml" "${@:2}"
}

prepare() {
  local uv=.venv/bin/uv
  if [[ -e $PLACE/ready ]]; then return; fi
  "$uv" venv --quiet --clear --python .venv/bin/python "$PLACE" &&
    "$uv" pip sync --quiet --python "$PLACE/bin/python" --require-hashes requirements/dev.txt &&
    "$uv" pip install --quiet --python "$PLACE/bin/python" \
      "mlflow==$VERSION" "mlflow-skinny==$VERSION" "mlflow-tracing==$VERSION" &&
    "$uv" pip install --quiet --python "$PLACE/bin/python" --no-deps --no-build-isolation --editable . --editable client &&
    touch "$PLACE/ready"
}

main
