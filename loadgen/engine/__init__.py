"""The process that makes the load: locust, gevent and the clients. Nothing outside it may import this package."""
