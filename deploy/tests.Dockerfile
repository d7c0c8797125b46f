# The tests, on a machine that has nothing but Docker. The context is the repository.

FROM python:3.12-slim
RUN apt-get update -q \
    && apt-get install -yq --no-install-recommends curl make nats-server redis-server \
    && rm -rf /var/lib/apt/lists/*
# PostgreSQL refuses to run as root, and so need nothing else.
RUN useradd --uid 10001 --create-home ledger
WORKDIR /home/ledger/checkout
COPY requirements-dev.lock .
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-dev.lock
COPY --chown=ledger . .
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation -e . \
    && chown ledger .
USER ledger
ENTRYPOINT ["python", "-m", "pytest", "-p", "no:cacheprovider"]
