"""CPython inside Envoy: the C source of the dynamic module, how it is built, and what it is to Python."""
