# A slim image with the command: docker build -t pyengine . && docker run --rm -v "$PWD:/data" pyengine info /data/de-en-int8
FROM python:3.13-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
COPY . /src
RUN pip wheel --no-cache-dir --wheel-dir /wheels /src

FROM python:3.13-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index /wheels/*.whl
USER nobody
WORKDIR /data
ENTRYPOINT ["pyengine"]
