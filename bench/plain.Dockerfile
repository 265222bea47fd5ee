# The plain set-up as an image, on Gatehouse's base: `pip install mlflow psycopg2-binary google-cloud-storage` + the proxy.
#
#   docker build --file bench/plain.Dockerfile --tag gatehouse-bench-plain:dev .        (after `make image`)
ARG DEBIAN=debian:trixie-20260918-slim@sha256:a99cfc517144bc59b1978475ec53b46ecabec7e43635402ee5b77cc54cd1b20a
# hadolint ignore=DL3006
FROM gatehouse:dev AS gatehouse

FROM ${DEBIAN}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get upgrade --yes --no-install-recommends \
    && apt-get install --yes --no-install-recommends ca-certificates netcat-openbsd python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY requirements/plain.txt /tmp/
RUN python3 -m venv /opt/mlflow \
    && /opt/mlflow/bin/pip install --no-cache-dir --require-hashes --requirement /tmp/plain.txt
COPY --from=gatehouse /usr/local/bin/oauth2-proxy /usr/local/bin/
COPY bench/plain.sh /
ENV PATH=/opt/mlflow/bin:/usr/local/bin:/usr/bin:/bin
ENTRYPOINT ["bash", "/plain.sh"]
