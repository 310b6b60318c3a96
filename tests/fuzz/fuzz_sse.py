"""python tests/fuzz/fuzz_sse.py [-runs=N] [-max_total_time=SECONDS] [FOLDER FOR FINDS] tests/fuzz/corpus/sse"""

from fuzzer import run

run("check_sse")
