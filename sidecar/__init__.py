"""Beside every Envoy: metrics per model version, and Python plugins on the request path. Imports nothing of ours."""
