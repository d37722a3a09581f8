"""Talking to a Kubernetes API server: requests, following a resource, being the one who writes."""
