"""What Kubernetes objects mean to headgate, as pure functions over plain dicts: no client, no clock, no I/O."""
