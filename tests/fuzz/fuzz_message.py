"""python tests/fuzz/fuzz_message.py [-runs=N] [-max_total_time=SECONDS] [FOLDER FOR FINDS] tests/fuzz/corpus/message"""

from fuzzer import run

run("check_message")
