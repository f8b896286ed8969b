"""Every measurement, one after the other: python -m bench"""

import runpy
import sys

for module in (
    "score",
    "plot",
    "steps",
    "decode",
    "preprocess",
    "read",
    "write",
    "back_pressure",
    "kill_resume",
    "archive",
    "growth",
):
    print(f"\n== python -m bench.{module}", flush=True)
    sys.argv = [module]
    runpy.run_module(f"bench.{module}", run_name="__main__")
