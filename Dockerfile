# One image a kind of service: docker build --target label|train|gpu|monitor. Only `train` has MindSpore.
# Versions come from requirements.lock, the choice of packages from the extras of pyproject.toml.
FROM python:3.11.13-slim-bookworm AS base

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/sortline
COPY requirements.lock ./
RUN sed -E '/^ *--hash/d; s/ *\\$//' requirements.lock > constraints.txt
COPY . ./

FROM build AS build-label
RUN /opt/sortline/bin/pip install --constraint constraints.txt ".[heif,raw,remote]"

FROM build AS build-train
RUN /opt/sortline/bin/pip install --constraint constraints.txt ".[train,heif,raw,weights]"

FROM build AS build-gpu
RUN /opt/sortline/bin/pip install --constraint constraints.txt ".[gpu,heif,raw,remote]"

FROM build AS build-monitor
RUN /opt/sortline/bin/pip install --constraint constraints.txt ".[monitor]"

FROM base AS runtime
# libgomp: of MindSpore and OpenVINO.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 sortline \
 && install -d -o sortline -g sortline -m 0750 /models /var/lib/sortline /reports
ENV PATH=/opt/sortline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SORTLINE_HOME=/var/lib/sortline \
    SORTLINE_STORE=/models \
    MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /var/lib/sortline
USER sortline
ENTRYPOINT ["sortline"]
CMD ["--help"]

FROM runtime AS label
COPY --from=build-label /opt/sortline /opt/sortline

FROM runtime AS train
COPY --from=build-train /opt/sortline /opt/sortline

FROM runtime AS gpu
COPY --from=build-gpu /opt/sortline /opt/sortline

FROM runtime AS monitor
COPY --from=build-monitor /opt/sortline /opt/sortline
