"""SOURCE, as the commands take it: which inventory it means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ovafs.errors import SourceError
from ovafs.inventory.pool import Pool

if TYPE_CHECKING:
    from ovafs.inventory.inventory import Inventory

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


def open_inventory(source: str) -> Inventory:
    """The inventory behind ``source``, a pool directory. Close it.

    Raises SourceError, also for a URI ("qemu:///system"): only pools are sources. A directory whose path looks
    like one can be given as "./x:/y".
    """
    if uri := _URI.match(source):
        raise SourceError(f"{source} is a URI ({uri[1]}), but only pool directories can be a source")
    return Pool(source)
