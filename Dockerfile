# The service, small: ONNX Runtime and an exported model, no PyTorch, for any user and a read-only
# root. `--target training` is the trainer instead. docs/deployment.md tells sizes and times;
# docker-compose.yml is how both are meant to run.

ARG BASE=python:3.11-slim-bookworm
# What the service has to serve: `shipped` is captioner/model, `sample` is trained while building.
ARG MODEL=shipped

# --- what serves: the packages of deploy/runtime.lock, each checked against its hash
FROM ${BASE} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY deploy/runtime.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/python && \
    pip --python /opt/python/bin/python install --require-hashes --no-deps -r runtime.lock && \
    pip --python /opt/python/bin/python check
ENV PATH=/opt/python/bin:$PATH

# --- what trains as well: the packages of deploy/training.lock
FROM ${BASE} AS training-packages
# An index to take torch and torchvision from instead, such as PyTorch's own one of CPU-only builds.
# Its files are others than those of the lock, so these two are pinned by version alone.
ARG TORCH_INDEX_URL=
# The versions to take from there; empty: those of the lock.
ARG TORCH_PACKAGES=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY deploy/training.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/python && \
    if [ -z "$TORCH_INDEX_URL" ]; then \
        /opt/python/bin/pip install --require-hashes --no-deps -r training.lock; \
    else \
        awk '/^[a-z]/ {kept = !/^(torch|torchvision|triton|cuda-[a-z]*|nvidia-[a-z0-9-]*)==/} kept' \
            training.lock > others.lock && \
        /opt/python/bin/pip install --require-hashes --no-deps -r others.lock && \
        /opt/python/bin/pip install --index-url "$TORCH_INDEX_URL" \
            ${TORCH_PACKAGES:-$(sed -nE 's/^(torch|torchvision)==([^ ]+).*/\1==\2/p' training.lock)}; \
    fi && \
    /opt/python/bin/pip check
ENV PATH=/opt/python/bin:$PATH

# --- the kernels, a library for each instruction set; these stages alone have a compiler
FROM packages AS compiler
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update -qq && apt-get install -qq -y --no-install-recommends g++
COPY captioner/__init__.py captioner/errors.py captioner/files.py captioner/flags.py captioner/options.py captioner/text.py captioner/
COPY captioner/native captioner/native

FROM compiler AS decoding-kernels
# Processors without one leave the folder empty.
RUN mkdir /kernels && python -m captioner.native.build --libraries decoding --into /kernels && \
    chmod -R a+rX /kernels

FROM compiler AS kernels
RUN python -m captioner.native.build --into /kernels && chmod -R a+rX /kernels

# --- a captioner of the built-in sample, exported, so that the service has something to serve
FROM training-packages AS model-sample
ARG SAMPLE_EPOCHS=5
COPY captioner captioner
COPY training training
COPY --from=kernels /kernels captioner/native/built
RUN OMP_WAIT_POLICY=PASSIVE python -m training.train_coco --p 0.4 --data shapes --epochs ${SAMPLE_EPOCHS} --out /run/sample
RUN python -m captioner export /run/sample/best --out /model && chmod -R a+rX /model

# --- the exported captioner that comes with the project
FROM scratch AS model-shipped
COPY captioner/model /model

FROM model-${MODEL} AS model

# --- the image that trains, and serves checkpoints on a GPU
FROM training-packages AS training
WORKDIR /app
RUN rm -r /build && groupadd --gid 10001 captioner && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin captioner && \
    install -d -o 10001 -g 10001 runs data /cache
COPY LICENSE pyproject.toml ./
COPY captioner captioner
COPY training training
COPY serving serving
COPY scripts scripts
COPY --from=kernels /kernels captioner/native/built
RUN python -m compileall -q captioner training serving
COPY --chmod=755 deploy/captioner /opt/python/bin/captioner
# All that is written at run time goes to /tmp, runs, data and /cache.
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONPATH=/app
USER 10001:10001
CMD ["python", "-m", "training.train_coco", "--help"]

# --- the code that serves, compiled; the model has a place of its own
FROM packages AS code
WORKDIR /app
COPY captioner captioner
COPY serving serving
COPY --from=decoding-kernels /kernels captioner/native/built
# The library finds the model where the service does, so it is in the image once.
RUN rm -rf captioner/model && ln -s /checkpoints/default captioner/model && \
    python -m compileall -q captioner serving

# --- the image that serves
FROM packages
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="captioner" \
      org.opencontainers.image.description="Captions for photographs over HTTP" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT"
WORKDIR /app
RUN rm -r /build && groupadd --gid 10001 captioner && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin captioner
COPY LICENSE ./
COPY --from=model /model /checkpoints/default
COPY --from=code /app /app
COPY --chmod=755 deploy/captioner /opt/python/bin/captioner
# All that is written at run time goes to /tmp.
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONPATH=/app \
    CAPTIONER_HOST=0.0.0.0 CAPTIONER_PORT=8000 CAPTIONER_CHECKPOINT=/checkpoints/default
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/ready'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["python", "-m", "serving"]
