"""The pages: each has its data (`*_page`, pure), its questions (`*_tab`) and its template. Addresses: `pages.py`."""
