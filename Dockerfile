# An image for CPUs, with the environment of `make setup` (mmcv compiles for minutes), from the root of a clone:
#   docker build -t mmkerv .
#   docker run --rm -v "$PWD/data:/mmkerv/data" -v "$PWD/work_dirs:/mmkerv/work_dirs" mmkerv mmkerv train CONFIG
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /mmkerv
COPY . .
RUN make setup && rm -rf /root/.cache
ENV PATH=/mmkerv/.venv/bin:$PATH
CMD ["mmkerv", "-h"]
