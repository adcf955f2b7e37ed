"""The website: records in, static HTML out. `overview` and `details` render the pages, each from one template.

The site needs no network and no server: every page opens from the file system. Scripts stand inside the pages that
use them, and a content security policy names them by hash, so that nothing in a record can run or load anything.
Text of records reaches a page only through autoescaped templates, JSON without "<", and `textContent`.

The interactive figure is our own small SVG script, not Vega: one dragged rectangle must recompute four panels, print
the digits of `correlate`, work from the keyboard and be stored in the address. With Vega each of these needs extra code
around its selections, on top of 0.8 MB of scripts. The static figure is Vega-Lite (`diffusionbench.views.figure`).
"""
