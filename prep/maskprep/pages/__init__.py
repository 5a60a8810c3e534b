"""Pages to look at: one style, tables and charts as HTML and SVG that need nothing else.

What other rooms may use stands in ``__init__.pyi``; each name is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
