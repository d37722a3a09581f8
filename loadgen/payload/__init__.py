"""What is sent: payloads from strings, files, addresses, templates, feeds and metadata of models."""
