"""python tests/fuzz/fuzz_answer.py [-runs=N] [-max_total_time=SECONDS] [FOLDER FOR FINDS] tests/fuzz/corpus/answer"""

from fuzzer import run

run("check_answer")
