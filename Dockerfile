# Two stages: the compiler that builds the kernels stays behind. Everything from a package index is locked with hashes
# (`make lock` renews both files). To pin the base image as well, give its digest:
#   docker build --build-arg PYTHON_IMAGE=python:3.13-slim@sha256:... -t espan-bridge .
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock build.lock ./
# without pip in it: nothing is ever installed into the image later
RUN python -m venv --without-pip /opt/espan \
    && pip --python /opt/espan/bin/python install --no-cache-dir --only-binary :all: --require-hashes -r requirements.lock \
    && pip install --no-cache-dir --only-binary :all: --require-hashes -r build.lock
COPY pyproject.toml README.md ./
COPY bridge bridge
COPY conf/profiles conf/profiles
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && pip --python /opt/espan/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl
# an image without the compiled kernels would run, at a fraction of the speed
RUN ["/opt/espan/bin/python", "-c", "from bridge.codec import kernel_in_use; assert kernel_in_use()"]

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="eSpan bridge" \
      org.opencontainers.image.description="Makes traces out of what eBPF probes see" \
      org.opencontainers.image.licenses="Apache-2.0"
# manifests of DataKit ELinker put db_path into /usr/local/datakit; they work with this image as they are
RUN groupadd --gid 10001 espan \
    && useradd --uid 10001 --gid 10001 --create-home --home-dir /var/lib/espan-bridge --shell /usr/sbin/nologin espan \
    && install -d -o espan /usr/local/datakit
COPY --from=build /opt/espan /opt/espan
COPY conf/docker.toml /etc/espan-bridge/bridge.toml
# by number, so that Kubernetes can tell that it is not root
USER 10001:10001
# the only place that is written to: run it with --read-only
VOLUME /var/lib/espan-bridge
WORKDIR /var/lib/espan-bridge
EXPOSE 4317 4318 4319 9529
ENV PATH=/opt/espan/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:4319/readyz', timeout=2)"]
ENTRYPOINT ["espan-bridge"]
CMD ["run", "--config", "/etc/espan-bridge/bridge.toml"]
