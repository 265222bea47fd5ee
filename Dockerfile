# Gatehouse: MLflow on a private socket, oauth2-proxy in front of it, one container.
#
#   docker build --tag gatehouse:dev .
#   docker build --build-arg STORES=all-stores --tag gatehouse:dev-all-stores .     S3 and Azure as well as Cloud Storage
#
# The one base image, by dated tag and digest; oauth2-proxy, Go's toolchain and Python's packages are pinned by checksum too
# (proxy/go.sum, Go's checksum database, requirements/*.txt). Where that image can't be pulled, any Debian 13
# does: --build-arg DEBIAN=debian:trixie-slim (tests/container/engine.sh makes one).
ARG DEBIAN=debian:trixie-20260918-slim@sha256:a99cfc517144bc59b1978475ec53b46ecabec7e43635402ee5b77cc54cd1b20a

# ── oauth2-proxy and the HTTP/2 listener, from source ────────────────────────────────────────────────────────────────
FROM ${DEBIAN} AS proxy
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# Debian's Go only fetches this one, which carries the security fixes of Go's own TLS and HTTP.
ARG GO=go1.26.11
ENV GOTOOLCHAIN=${GO} CGO_ENABLED=0 GOFLAGS=-mod=readonly GOPATH=/go
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates golang-go \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY proxy/go.mod proxy/go.sum proxy/build.sh proxy/gatehouse.go ./
RUN ./build.sh /usr/local/bin/oauth2-proxy \
    && oauth2-proxy --version | grep -q "$(go list -m -f '{{.Version}}' github.com/oauth2-proxy/oauth2-proxy/v7)+gatehouse\."
COPY listener listener
RUN go build -C listener -trimpath -ldflags '-s -w' -o /usr/local/bin/gatehouse-listener .

# ── MLflow and what its server needs ─────────────────────────────────────────────────────────────────────────────────
FROM ${DEBIAN} AS python
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils python3-pip python3-setuptools python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The lock file to install: the default one, with the artifact stores of its own cloud alone, or all-stores.
ARG STORES=server
COPY requirements/${STORES}.txt ./server.txt
RUN python3 -m venv --without-pip /opt/gatehouse \
    && pip --python /opt/gatehouse install --no-cache-dir --no-compile --no-deps --only-binary :all: --require-hashes \
        --requirement server.txt
# What a server never reads: the packages' own tests, sources of compiled modules, stubs, debug symbols. Libraries that
# auditwheel has moved (*.libs) keep theirs: strip(1) can break what patchelf has edited.
# Bytecode is never checked against its source: the root is read-only, and a copied file's time can differ.
WORKDIR /opt/gatehouse
RUN find . -type d -name tests -prune -exec rm -rf {} + \
    && find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.[ch]' -o -name '*.hpp' -o -name '*.a' \
        -o -name '*.map' \) -delete \
    && find . -path '*.libs' -prune -o -type f -name '*.so' -exec strip --strip-unneeded {} + \
    && rm -f bin/[Aa]ctivate* \
    && bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash lib

# ── Gatehouse itself, alone in a folder: a new release is a small layer on the same big one ──────────────────────────
FROM python AS gatehouse
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
# A fixed time: pip notes the wheel's hash in what it installs.
RUN SOURCE_DATE_EPOCH=315532800 pip wheel --no-cache-dir --no-deps --no-index --no-build-isolation --wheel-dir /tmp/wheel . \
    && pip --python /opt/gatehouse install --no-cache-dir --no-compile --no-deps --no-index --root /layer /tmp/wheel/*.whl \
    && PYTHONPATH=$(echo /layer/opt/gatehouse/lib/python3*/site-packages) \
        /opt/gatehouse/bin/python -B -m gatehouse.ui.static /layer/opt/gatehouse/share/gatehouse/static \
    && /opt/gatehouse/bin/python -m compileall -q --invalidation-mode unchecked-hash -s /layer /layer
# The client that the server hands out. Nothing of it is installed here.
COPY client client
RUN python3 client/build_wheel.py /dist

# ── the image ────────────────────────────────────────────────────────────────────────────────────────────────────────
FROM ${DEBIAN}
# The upgrade: what Debian has fixed since the base image's date.
# The user's fixed date: /etc/shadow has the day of the last change, and two builds of one commit have the same bytes.
# /data is for those who keep SQLite or artifacts on a volume; like /tmp, it serves whichever user the container runs as.
# Nothing in it needs more rights than its caller, so no program gives any.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get upgrade --yes --no-install-recommends \
    && apt-get install --yes --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/* /var/lib/dpkg/*-old \
    && SOURCE_DATE_EPOCH=86400 useradd --system --no-create-home --uid 10001 --user-group --home-dir /tmp --shell /usr/sbin/nologin gatehouse \
    && install -d -m 1777 /data \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=proxy /usr/local/bin/oauth2-proxy /usr/local/bin/gatehouse-listener /usr/local/bin/
COPY --from=python /opt/gatehouse /opt/gatehouse
COPY --from=gatehouse /layer/opt/gatehouse /opt/gatehouse
COPY proxy/templates /app/proxy/templates
COPY --from=gatehouse /dist /app/dist
COPY start.sh oauth2_proxy.cfg.tmpl /app/

ENV PATH=/opt/gatehouse/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    GATEHOUSE_HOME=/app \
    PORT=8080 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER 10001:10001
EXPOSE 8080
# Not `tini -g`: start.sh alone gets the signal, and decides in which order the two behind it end.
ENTRYPOINT ["/usr/bin/tini", "--", "/app/start.sh"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["gatehouse", "health"]

ARG DEBIAN
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Gatehouse" \
      org.opencontainers.image.description="An MLflow tracking server with a locked front door" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${DEBIAN}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
