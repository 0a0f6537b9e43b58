"""Drawings of one page, as SVG. Charts that several pages share are in `relay/web/charts.py`."""
