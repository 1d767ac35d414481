# The label image has no MindSpore; --build-arg EXTRAS=train|gpu|monitor adds what a service needs.
FROM python:3.11-slim-bookworm

ARG EXTRAS=""
RUN useradd --create-home --uid 1000 sortline \
 && install -d -o sortline -g sortline /models /var/lib/sortline
WORKDIR /opt/sortline
COPY . .
# Versions come from the lock, the choice of packages from the extras.
RUN sed -E '/^ *--hash/d; s/ *\\$//' requirements.lock > /tmp/constraints.txt \
 && pip install --no-cache-dir --constraint /tmp/constraints.txt ".${EXTRAS:+[$EXTRAS]}"
USER sortline
ENTRYPOINT ["sortline"]
CMD ["--help"]
