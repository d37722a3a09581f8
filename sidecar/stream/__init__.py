"""Single requests, as Envoy tells them: counted by what its own counters do not know, and the last ones kept.

receiver.py ─► layout.py ─► requests.py ─► figures.py   /metrics
 (Fluentd)      (parse)       (count) ────► pages.py     /requests, /requests/live
                              losses.py: what never came, by Envoy's own account
                              process.py: the rim
"""
