"""Runs the cases of the clients named as arguments, all in this one process; prints a line of JSON for each."""

import importlib
import sys

from common import run

for module in sys.argv[1:]:
    for client, cases in importlib.import_module(module).clients():
        run(client, cases)
