# An image for CPUs, with the environment of `make setup` (mmcv compiles for minutes), from the root of a clone:
#   docker build -t mmkerv .
#   docker build -t mmkerv --build-arg FORCE_CUDA=1 --build-arg 'TORCH_CUDA_ARCH_LIST=8.0;9.0' .   # for GPUs
#   docker run --rm -v "$PWD/data:/mmkerv/data" -v "$PWD/work_dirs:/mmkerv/work_dirs" mmkerv mmkerv train CONFIG
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /mmkerv
COPY . .
ARG FORCE_CUDA
ARG TORCH_CUDA_ARCH_LIST
RUN PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 make setup
ENV PATH=/mmkerv/.venv/bin:$PATH
CMD ["mmkerv", "-h"]
