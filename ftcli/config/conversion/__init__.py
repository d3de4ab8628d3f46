"""A training configuration of another tool → a recipe of ftcli, and an account of every key of it.

`convert` reads a file as data, never as code: the tables of ftcli/config/importers/ say what a key is called here,
and one module a tool (`tools/`) does what no table can: its data sets, its batch, its defaults.
"""

from __future__ import annotations

from ftcli.config.conversion.account import LISTS, Account, Entry
from ftcli.config.conversion.convert import Conversion, convert
from ftcli.config.conversion.detect import TOOLS
from ftcli.config.conversion.foreign_file import SUFFIXES

__all__ = ["LISTS", "SUFFIXES", "TOOLS", "Account", "Conversion", "Entry", "convert"]
