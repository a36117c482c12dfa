# For machines with NVIDIA GPUs and the container toolkit. Linted with hadolint; it has not been built.
#   docker build -t normbt .
#   docker run --gpus all --shm-size 16g -v "$PWD/runs:/app/runs" -v "$PWD/results:/app/results" \
#     -v "$HOME/.cache/huggingface:/home/normbt/.cache/huggingface" normbt python -m scripts.train loss=normbt
# The folders that are mounted have to be writable for user 1000. A Hub login is that of the mounted cache
# or HF_TOKEN (docker run -e HF_TOKEN): no secret is in the image.
# "devel", because DeepSpeed compiles operators where it runs.
FROM nvidia/cuda:13.0.1-cudnn-devel-ubuntu24.04

# Ubuntu 24.04 has Python 3.12; 3.11 is from the deadsnakes archive. git: the revision in manifests.
# pdsh and ssh: launch=hostfile.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends software-properties-common gnupg \
    && add-apt-repository --yes ppa:deadsnakes/ppa \
    && apt-get update \
    && apt-get install --yes --no-install-recommends \
        build-essential git ninja-build openssh-client pdsh python3.11 python3.11-dev python3.11-venv \
    && rm -rf /var/lib/apt/lists/*

# The image has an "ubuntu" user with the id 1000.
RUN userdel --remove ubuntu \
    && useradd --create-home --uid 1000 normbt \
    && mkdir /app \
    && chown normbt:normbt /app
USER 1000
WORKDIR /app
ENV VIRTUAL_ENV=/app/.venv \
    PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1

# Requirements before the code: a change of the code does not install them again.
COPY --chown=normbt:normbt requirements.txt requirements-extras.txt ./
RUN python3.11 -m venv .venv \
    && pip install --no-cache-dir -r requirements.txt -r requirements-extras.txt \
    && touch .venv/.ready
COPY --chown=normbt:normbt . .

CMD ["make", "help"]
