# The reference platform: choreo, handlers/ and celeryconfig.py. docker-compose.yml says what a container runs.
FROM python:3.13-slim

# The log appears line by line, and the source directory stays as it was built.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# A worker needs no rights. A volume that is mounted on /data for the first time takes over its owner.
RUN useradd --uid 10001 --no-create-home choreo && install --directory --owner choreo /data

# First what changes rarely, so that a change in handlers/ installs nothing again.
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY choreo/ choreo/
RUN pip install --no-cache-dir '.[flower,metrics]'

# Celery, choreo and Flower look for these in the directory where they start.
WORKDIR /app
COPY celeryconfig.py flowerconfig.py ./
COPY handlers/ handlers/

USER choreo

# Started by itself, the image says what it can do.
CMD ["celery", "--help"]
