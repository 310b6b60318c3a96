"""The benchmark runs and writes what `make bench` promises; nothing here looks at the times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_quick_run_checks_its_subjects_and_writes_figures_by_subject(tmp_path: Path) -> None:
    out = tmp_path / "out" / "latest.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_bytes())
    expected = {"gateway", "gateway_2026_07_28", "gateway_fresh_token"}
    if "nginx_plain" in report["skipped"]:
        assert "nginx_plain WAS NOT MEASURED" in done.stderr
        assert report["ratio"] == {}
    else:
        expected.add("nginx_plain")
        assert report["ratio"].keys() == {"nginx_plain"}
    assert report["cpu_us"].keys() == expected
    assert all(value > 0 for value in report["cpu_us"].values())
    assert all(len(rounds) == report["rounds"] for rounds in report["cpu_us_rounds"].values())
    assert {"calls", "date", "machine", "versions", "fresh_token_ratio"} <= report.keys()
    assert report["versions"]["gateway"].startswith("twogate ")
    for name in expected:
        assert name in done.stdout
