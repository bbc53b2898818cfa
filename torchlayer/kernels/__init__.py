"""The Python half of csrc, one small file per op.

A line here makes a function public; the loop below lets every module define its ops, with or without such a line.
"""

from importlib import import_module
from pkgutil import iter_modules

from ._library import Backend as Backend
from ._library import Compiled as Compiled
from ._library import compiled as compiled
from .adam import adam_ as adam_
from .custom import compile_library as compile_library
from .custom import define as define
from .discounted_sum import discounted_sum as discounted_sum

for _module in iter_modules(__path__):
    if not _module.name.startswith("_"):
        import_module(f"{__name__}.{_module.name}")
