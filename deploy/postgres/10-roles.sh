#!/bin/bash
# Run once, when the database is made: the service's own role and database, and a role that may only
# look at statistics. Neither may do what the superuser may.
set -euo pipefail

# As variables, which psql quotes: a password may hold anything.
psql --quiet --set ON_ERROR_STOP=1 --set ledger="$LEDGER_DB_PASSWORD" \
    --set exporter="$EXPORTER_DB_PASSWORD" --username postgres --dbname postgres <<'SQL'
create role ledger login password :'ledger';
create database ledger owner ledger;
revoke all on database ledger from public;
create role exporter login password :'exporter' connection limit 5 in role pg_monitor;
grant connect on database ledger to exporter;
SQL
