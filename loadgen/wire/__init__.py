"""Clients for HTTP/1, HTTP/2 and gRPC: protocol machines without sockets, and their rims on the loop of gevent."""
