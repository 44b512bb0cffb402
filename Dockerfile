# The gridnode image: /opt/gridnode holds the node and its dependencies. It is also the image of Python tasks and programs,
# which see the system's bare python3 and the runtimes that a node mounts into every sandbox.
# BASE: Debian with python3 and ca-certificates; deploy/image/base makes it.
ARG BASE=gridcontrol-base:trixie

# Dependencies, from the lock file alone: an edit of the source reuses these layers.
FROM ${BASE} AS dependencies
ARG UV=0.13.9
ARG HATCHLING=1.33.0
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    UV_PROJECT_ENVIRONMENT=/opt/gridnode \
    UV_PYTHON=/usr/bin/python3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null \
    && python3 -m venv /opt/build \
    && /opt/build/bin/pip install -q --no-cache-dir "uv==${UV}" "hatchling==${HATCHLING}" \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml uv.lock ./
RUN /opt/build/bin/uv sync -q --frozen --no-dev --no-install-project --compile-bytecode \
    && find /opt/gridnode -depth -type d -name tests -path '*/site-packages/*' -exec rm -rf {} + \
    && find /opt/gridnode \( -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' -o -name '*.pyi' \) -delete

# The project, as a layer of its own: an upgrade ships only that.
FROM dependencies AS project
COPY README.md LICENSE ./
COPY gridnode gridnode
COPY gridctl gridctl
COPY examples examples
COPY deploy/systemd deploy/systemd
COPY deploy/cloud-init deploy/cloud-init
RUN /opt/build/bin/uv build -q --wheel --no-build-isolation --python /opt/build/bin/python -o /tmp/wheel \
    && touch /tmp/mark \
    && /opt/build/bin/uv pip install -q --no-deps --compile-bytecode --python /opt/gridnode/bin/python /tmp/wheel/*.whl \
    && mkdir /out \
    && cd /opt/gridnode \
    && find . -newercm /tmp/mark ! -type d -print0 | tar -c --null -T - | tar -x -C /out

# nft: for the rules of the egress network.
FROM ${BASE}
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nftables >/dev/null \
    && rm -rf /usr/share/doc /usr/share/man /var/cache/apt /var/cache/debconf /var/lib/apt/lists/* /var/log/apt
COPY --from=dependencies /opt/gridnode /opt/gridnode
COPY --from=project /out /opt/gridnode
RUN ln -s /opt/gridnode/bin/gridnode /opt/gridnode/bin/gridctl /usr/local/bin/
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/bin/python3", "-I", "-S", "-c", "import os, socket, sys\nport = int(os.environ.get('GRIDNODE_API_PORT', '10000'))\nwith socket.create_connection(('127.0.0.1', port), 4) as s:\n    s.sendall(b'GET /healthz HTTP/1.0\\r\\nHost: 127.0.0.1\\r\\n\\r\\n')\n    sys.exit(b' 200 ' not in s.recv(64))"]
ENTRYPOINT ["/opt/gridnode/bin/gridnode"]
ARG VERSION=0
ARG INPUTS=
LABEL org.opencontainers.image.title="gridnode" \
    org.opencontainers.image.description="One node of a gridcontrol compute grid, and the runtime of its tasks" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    gridcontrol.inputs="${INPUTS}"
