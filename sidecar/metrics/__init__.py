"""What users experienced, per model version: read from Envoy's admin endpoint, told to Prometheus and as JSON.

admin.py ─► stats.py ─► totals.py ─► families.py   /metrics
 (HTTP)      (parse)     (monotone) ─► windows.py   /versions
                                       pages.py, process.py: the rim
"""
