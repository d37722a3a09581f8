"""A Kubernetes API server for tests: in this process, true to the real one's semantics, failing on cue."""

from kubedouble.errors import ApiError
from kubedouble.faults import Faults
from kubedouble.rbac import User
from kubedouble.server import ApiServer

__all__ = ["ApiError", "ApiServer", "Faults", "User"]
