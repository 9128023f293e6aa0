# One image, several commands: web (the default), `flask worker`, `flask scheduler`, `flask db upgrade`, any `flask …`.
# How it is run, and what was tried of it: docs/install.md.
FROM python:3.11-slim-bookworm AS build
# Without pip: whoever gets into a container finds no installer there.
RUN python -m venv --without-pip /opt/venv
COPY requirements.txt requirements-otel.txt /build/
# `--build-arg ALSO=requirements-otel.txt` for traces: where it is installed, the client of Redis imports a part of it.
ARG ALSO=requirements.txt
RUN python -m pip --python /opt/venv install --no-cache-dir --disable-pip-version-check --require-hashes \
    -r /build/requirements.txt -r "/build/$ALSO"
COPY . /app
# Compiled here, since nothing can be written where it runs.
RUN python -m compileall -q /app

FROM python:3.11-slim-bookworm
# An init: gunicorn and the worker are not made to be process 1. Its version is the base image's affair.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /app --shell /usr/sbin/nologin openremedy
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 FLASK_APP=wsgi
# A number and not a name: platforms that forbid root want to see it.
USER 10001:10001
EXPOSE 8000
# Any answer is life: with OPENREMEDY_TRUSTED_HOSTS set, this question is a 404.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", \
    "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status >= 500)"]
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["gunicorn", "--config", "config/gunicorn.conf.py", "--bind", "0.0.0.0:8000", "wsgi:app"]
