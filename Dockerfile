# For machines with NVIDIA GPUs and the container toolkit. Linted with hadolint; nobody has built it yet.
#   docker build -t normbt .
#   docker run --gpus all --shm-size 16g -v "$PWD/runs:/app/runs" -v "$PWD/results:/app/results" \
#     -v "$HOME/.cache/huggingface:/home/normbt/.cache/huggingface" normbt python -m scripts.train loss=normbt
# The mounted folders must be writable for user 1000. The image holds no secret: a Hub login comes from the
# mounted cache or from HF_TOKEN (docker run -e HF_TOKEN).
# "devel", because DeepSpeed compiles operators at run time.
FROM nvidia/cuda:13.0.1-cudnn-devel-ubuntu24.04

# Ubuntu 24.04 has Python 3.12; 3.11 comes from the deadsnakes archive. git gives the revision in manifests.
# launch=hostfile needs pdsh and ssh.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends software-properties-common gnupg \
    && add-apt-repository --yes ppa:deadsnakes/ppa \
    && apt-get update \
    && apt-get install --yes --no-install-recommends \
        build-essential git ninja-build openssh-client pdsh python3.11 python3.11-dev python3.11-venv \
    && rm -rf /var/lib/apt/lists/*

# The base image has a user "ubuntu" with id 1000.
RUN userdel --remove ubuntu \
    && useradd --create-home --uid 1000 normbt \
    && mkdir /app \
    && chown normbt:normbt /app
USER 1000
WORKDIR /app
ENV VIRTUAL_ENV=/app/.venv \
    PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1

# Requirements come before the code, so that a change of the code does not reinstall them.
COPY --chown=normbt:normbt requirements.txt requirements-extras.txt ./
RUN python3.11 -m venv .venv \
    && pip install --no-cache-dir -r requirements.txt -r requirements-extras.txt \
    && touch .venv/.ready
COPY --chown=normbt:normbt . .

CMD ["make", "help"]
