"""python tests/fuzz/fuzz_sse.py [-runs=N] [-max_total_time=SECONDS] [FOLDER FOR FINDS] tests/fuzz/corpus/sse"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.fuzzer import run

run("check_sse")
