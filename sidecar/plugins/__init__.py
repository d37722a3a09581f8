"""Plugins that we ship. Each is short enough to be read as a lesson; docs/plugins.md lists them."""
