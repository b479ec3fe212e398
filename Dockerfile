# The service and the trainer in one image, without a compiler, for any user and a read-only root.
# docs/deployment.md tells sizes and times; docker-compose.yml is how it is meant to run.

ARG BASE=python:3.11-slim-bookworm

# --- the packages of deploy/requirements.lock, each checked against its hash
FROM ${BASE} AS packages
# An index to take torch and torchvision from instead, such as PyTorch's own one of CPU-only builds.
# Its files are others than those of the lock, so these two are pinned by version alone.
ARG TORCH_INDEX_URL=
# The versions to take from there; empty: those of the lock.
ARG TORCH_PACKAGES=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY deploy/requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/python && \
    if [ -z "$TORCH_INDEX_URL" ]; then \
        /opt/python/bin/pip install --require-hashes --no-deps -r requirements.lock; \
    else \
        awk '/^[a-z]/ {kept = !/^(torch|torchvision|triton|cuda-[a-z]*|nvidia-[a-z0-9-]*)==/} kept' \
            requirements.lock > others.lock && \
        /opt/python/bin/pip install --require-hashes --no-deps -r others.lock && \
        /opt/python/bin/pip install --index-url "$TORCH_INDEX_URL" \
            ${TORCH_PACKAGES:-$(sed -nE 's/^(torch|torchvision)==([^ ]+).*/\1==\2/p' requirements.lock)}; \
    fi && \
    /opt/python/bin/pip check
ENV PATH=/opt/python/bin:$PATH

# --- the LSTM's kernels, one library for each instruction set; this stage alone has a compiler
FROM packages AS kernels
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update -qq && apt-get install -qq -y --no-install-recommends g++
COPY captioner/__init__.py captioner/errors.py captioner/files.py captioner/text.py captioner/threads.py captioner/
COPY captioner/native captioner/native
RUN python -m captioner.native.build --into /kernels && chmod -R a+rX /kernels

# --- a checkpoint of the built-in sample, so that the service has something to serve
FROM packages AS sample
ARG SAMPLE_EPOCHS=5
COPY captioner captioner
COPY training training
COPY --from=kernels /kernels captioner/native/built
RUN OMP_WAIT_POLICY=PASSIVE python -m training.train_coco --p 0.4 --data shapes --epochs ${SAMPLE_EPOCHS} --out /run/sample && \
    mkdir -p /checkpoints && cp -R /run/sample/best /checkpoints/sample && \
    chmod -R a+rX /checkpoints && rm -rf /run/sample /root/.cache/captioner

# --- what runs
FROM packages
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="captioner" \
      org.opencontainers.image.description="Captions for photographs over HTTP, and their training" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT"
WORKDIR /app
RUN rm -r /build && groupadd --gid 10001 captioner && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin captioner && \
    install -d -o 10001 -g 10001 runs data /cache
COPY --from=sample /checkpoints /checkpoints
COPY LICENSE pyproject.toml ./
COPY captioner captioner
COPY training training
COPY serving serving
COPY scripts scripts
COPY --from=kernels /kernels captioner/native/built
RUN python -m compileall -q captioner training serving
# All that is written at run time goes to /tmp, and with the trainer to runs, data and /cache.
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    CAPTIONER_HOST=0.0.0.0 CAPTIONER_PORT=8000 CAPTIONER_CHECKPOINT=/checkpoints/sample
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/ready'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["python", "-m", "serving"]
