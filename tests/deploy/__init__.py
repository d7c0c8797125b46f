"""Tests of `deploy/`: nginx, Prometheus' configuration, and the containers of compose.yaml."""
