"""Plugins beside Envoy, in a process of their own: a server of Envoy's external processing filter."""
