# The suite with Ray, as the lock files pin it. CPU: docker build -t mtl-bench .
# CUDA: docker build --build-arg BACKEND=cu128 -t mtl-bench .
FROM python:3.11-slim
ARG BACKEND=cpu
ENV UV_SYSTEM_PYTHON=1 UV_TORCH_BACKEND=$BACKEND RAY_USAGE_STATS_ENABLED=0
# KubeRay asks by wget whether a machine is well.
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
WORKDIR /suite
COPY requirements.txt requirements-ray.txt ./
RUN pip install --no-cache-dir uv && uv pip install --no-cache -r requirements-ray.txt
COPY run_bench.py ./
COPY weighting weighting
COPY benchmarks benchmarks
RUN useradd --create-home bench && mkdir /results && chown bench /suite /results
USER bench
CMD ["python", "run_bench.py", "--out", "/results", "--plots", "/results/plots"]
