# One image, several commands: web (the default), worker, scheduler, and any `flask …`.
FROM python:3.11-slim-bookworm AS build
COPY requirements.txt /build/requirements.txt
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r /build/requirements.txt

FROM python:3.11-slim-bookworm
# A number and not a name: platforms that forbid root want to see it.
RUN useradd --uid 10001 --no-create-home --home-dir /app openremedy
COPY --from=build /opt/venv /opt/venv
COPY . /app
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 8000
CMD ["gunicorn", "--config", "config/gunicorn.conf.py", "--bind", "0.0.0.0:8000", "wsgi:app"]
