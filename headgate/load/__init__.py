"""`headgate load`: its flags (flags.py), the plan they make (amount.py, request.py, planning.py), and what it shows."""
