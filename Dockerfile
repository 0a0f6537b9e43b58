# The image of revor-relay. `make image` builds it, docs/operate/container.md runs it.
# The base needs Python 3.11 or newer with venv, libstdc++ and CA certificates.
ARG BASE=docker.io/library/python:3.13-slim

# hadolint ignore=DL3006
FROM ${BASE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
# hadolint ignore=DL3008
RUN command -v strip > /dev/null || { apt-get update && apt-get install --yes --no-install-recommends binutils; }
COPY deploy/requirements.lock deploy/requirements.lock
# Removes 85 MB that the relay never reads: debug symbols, other languages than English, other databases, tests, C sources.
RUN python3 -m venv /opt/revor-relay \
    && /opt/revor-relay/bin/pip install --quiet --require-hashes --no-deps -r deploy/requirements.lock \
    && find /opt/revor-relay/lib -name '*.so*' -exec strip --strip-unneeded {} + \
    && find /opt/revor-relay/lib -path '*/babel/locale-data/*' ! -name 'root.dat' ! -name 'en*.dat' -delete \
    && find /opt/revor-relay/lib -type d -regex '.*/\(tests\|testing\|pydantic/v1\|dialects/\(mssql\|mysql\|oracle\)\)' -prune \
        -exec rm -r {} + \
    && find /opt/revor-relay/lib -type f -regex '.*\.\(pyi\|pyx\|pxd\|c\|cpp\|h\|hpp\)' -delete
COPY . .
ARG REVISION=""
ARG CREATED=""
# Removes the build tools too. Byte code with unchecked hashes is valid on a read-only file system.
RUN export REVOR_RELAY_COMMIT="${REVISION}" SOURCE_DATE_EPOCH="${CREATED:+$(date --date="${CREATED}" +%s)}" \
    && /opt/revor-relay/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/revor-relay/bin/pip install --quiet --no-deps --no-index /dist/*.whl \
    && /opt/revor-relay/bin/pip uninstall --quiet --yes hatchling pathspec pluggy trove-classifiers setuptools pip \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x '/(babel|cffi|mako/ext|pycparser|pygments)/' /opt/revor-relay/lib

# hadolint ignore=DL3006
FROM ${BASE}
COPY --from=build /opt/revor-relay /opt/revor-relay
RUN install -d -m 0700 -o 65532 -g 65532 /var/lib/revor-relay
COPY --chmod=0644 deploy/image/relay.yaml /etc/revor-relay/relay.yaml
# 0.0.0.0 is inside the container: the published ports decide who reaches it.
ENV PATH=/opt/revor-relay/bin:$PATH \
    HOME=/var/lib/revor-relay \
    XDG_STATE_HOME=/var/lib \
    RELAY_SERVER__HOST=0.0.0.0 \
    RELAY_SERVER__PORT=8080
# A base may lack the byte code of the standard library: this writes it for the modules that the relay imports.
RUN ["python3", "-c", "import uvloop, relay.cli, relay.node.opening, relay.server.http_server"]
# relay.yaml in the working directory is the settings file of every command.
WORKDIR /etc/revor-relay
USER 65532:65532
VOLUME /var/lib/revor-relay
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-IS", "-c", "import http.client, os; asked = http.client.HTTPConnection('127.0.0.1', int(os.environ['RELAY_SERVER__PORT']), timeout=4); asked.request('GET', '/livez'); raise SystemExit(asked.getresponse().status != 200)"]
ENTRYPOINT ["relay"]
CMD ["serve"]

ARG VERSION=""
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="revor-relay" \
      org.opencontainers.image.description="Turns the pull-only job API of Revor AI into a push API" \
      org.opencontainers.image.source="https://github.com/revor-relay/revor-relay" \
      org.opencontainers.image.documentation="https://github.com/revor-relay/revor-relay/blob/main/docs/operate/container.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
