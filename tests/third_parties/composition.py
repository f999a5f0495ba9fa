"""Say what classes of servers are made of, which are the arguments, as `module.Class`."""

import importlib
import sys

from common import made_of, say

if __name__ == "__main__":
    for name in sys.argv[1:]:
        module, _, cls = name.rpartition(".")
        say(name, made_of(getattr(importlib.import_module(module), cls)))
