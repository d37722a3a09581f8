"""What a leading process and its workers tell each other, over locust's own connections between them.

worker                          leader
  HELLO name  ─────────────────►          until all that are expected are there
         ◄─────────────────────  PLAN     plan, which share of how many
  READY or FAILED ─────────────►
         ◄── CLOCK ──► CLOCK ──►          a few times: how far the two wall clocks are apart
         ◄─────────────────────  GO       when, by the worker's own clock
  REPORT, once a second ───────►
         ◄─────────────────────  STOP     when the user ends it early
  REPORT final ────────────────►
         ◄─────────────────────  BYE
"""

HELLO = "headgate-hello"
PLAN = "headgate-plan"
READY = "headgate-ready"
FAILED = "headgate-failed"
CLOCK = "headgate-clock"
GO = "headgate-go"
REPORT = "headgate-report"
STOP = "headgate-stop"
BYE = "headgate-bye"
