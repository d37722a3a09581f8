"""Go's text/template with the functions of sprig that templates for experiments use: text and data in, text out.

`parse.py` makes a tree of the text, `render.py` walks it, `vocabulary.py` lists what can be called. No file, socket or
environment variable can be reached from a template.
"""

from loadgen.experiment.gotemplate.fault import TemplateFault
from loadgen.experiment.gotemplate.render import Template

__all__ = ["Template", "TemplateFault"]
