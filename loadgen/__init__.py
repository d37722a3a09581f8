"""Load and SLO experiments: what is asked of whom (plan.py), what came of it (outcome.py), and what that means (slo/).

Only `loadgen.engine` imports locust and gevent, which patch their process; it runs in a process of its own.
"""
