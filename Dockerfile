# Two stages: the compiler that builds the kernels stays behind.
FROM python:3.13-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md ./
COPY bridge bridge
COPY conf/profiles conf/profiles
# without pip in it: nothing is ever installed into the image later
RUN python -m venv --without-pip /opt/espan && pip --python /opt/espan/bin/python install --no-cache-dir .

FROM python:3.13-slim
# manifests of DataKit ELinker put db_path into /usr/local/datakit; they work with this image as they are
RUN useradd --uid 10001 --create-home --home-dir /var/lib/espan-bridge espan && install -d -o espan /usr/local/datakit
COPY --from=build /opt/espan /opt/espan
COPY conf/docker.toml /etc/espan-bridge/bridge.toml
USER 10001
VOLUME /var/lib/espan-bridge
EXPOSE 4317 4318 4319 9529
ENV PATH=/opt/espan/bin:$PATH PYTHONUNBUFFERED=1
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:4319/readyz', timeout=2)"]
ENTRYPOINT ["espan-bridge"]
CMD ["run", "--config", "/etc/espan-bridge/bridge.toml"]
