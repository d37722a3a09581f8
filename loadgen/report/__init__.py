"""Reports of a run: text, HTML, JSON, CSV, JUnit, Markdown."""
