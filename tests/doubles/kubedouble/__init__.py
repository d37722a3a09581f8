"""A Kubernetes API server for tests: small, in this process, true to the real one's semantics, and it can fail on cue."""

from kubedouble.errors import ApiError
from kubedouble.faults import Faults
from kubedouble.rbac import User
from kubedouble.server import ApiServer

__all__ = ["ApiError", "ApiServer", "Faults", "User"]
