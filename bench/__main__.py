"""Every measurement of docs/measurements.md, one after the other: python -m bench"""

import runpy
import sys

for module in ("decode", "preprocess", "read", "score", "kill_resume"):
    print(f"\n== python -m bench.{module}", flush=True)
    sys.argv = [module]
    runpy.run_module(f"bench.{module}", run_name="__main__")
