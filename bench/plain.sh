# What the known recipes run (the design's "plain set-up"): MLflow in the background, a wait for its port, the proxy.
# shellcheck shell=bash
# shellcheck disable=SC2086  # options, to be split
mlflow server --host 127.0.0.1 --port "$MLFLOW_PORT" --backend-store-uri "$BACKEND_STORE_URI" \
  --artifacts-destination "$ARTIFACTS" $MLFLOW_OPTIONS &
while ! nc -z localhost "$MLFLOW_PORT"; do sleep 1; done
oauth2-proxy --upstream="http://127.0.0.1:$MLFLOW_PORT" --http-address="127.0.0.1:$PORT" &
wait -n
