# SPDX-License-Identifier: Apache-2.0
"""Percentiles, and the report of served prompts."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from serrano_host.driver import Fault, Handle, Stats
from serrano_host.serving.prompts import Wanted
from serrano_host.serving.report import build_report, distribution, percentile, show_report
from serrano_host.serving.session import Served


@pytest.mark.parametrize("count", [1, 2, 10, 99, 100, 101])
def test_percentiles(count):
    values = np.random.default_rng(count).integers(0, 1000, count)
    for p in (1, 50, 90, 99, 100):
        wanted = np.percentile(values, p, method="inverted_cdf")
        assert percentile(values.tolist(), p) == wanted


def test_distribution():
    assert distribution([]) is None
    assert distribution([4, 1, 7]) == {
        **{"count": 3, "mean": 4.0, "p50": 4, "p90": 7, "p99": 7},
        **{"min": 1, "max": 7},
    }


def handle(number, cycles, *, submitted=100, status=0, ended=None):
    tokens = list(range(len(cycles)))
    end = ended or cycles[-1]
    return Handle(number, 2, 8, 0, submitted, tokens, list(cycles), status, True, end, 0)


STATS = Stats({"steps": 9}, 17, 2, 5, 3, 3, 2, 0, 5, [Fault(0x24, 1, 2, 3, 4, 1)])


@pytest.fixture
def report():
    served = [
        Served(0, Wanted((1, 2), "ab", 8), 100, handle(0, [300, 350, 450]), text="xyz"),
        Served(1, Wanted((1, 2), "ab", 8, arrival=50), 150, handle(1, [250, 260], submitted=200)),
        Served(2, Wanted((1, 2), "ab", 8), 100, handle(2, [], status=0x24, ended=240)),
        Served(3, Wanted((1, 2), "ab", 8), 100, problem="too long"),
    ]
    return build_report(served, 100, STATS, {"model": "m"})


def test_report(report):
    assert report["model"] == "m"
    assert (report["requests_served"], report["requests_failed"]) == (2, 2)
    first, gaps = report["time_to_first_token"], report["inter_token_latency"]
    assert (first["count"], first["min"], first["p50"], first["max"]) == (2, 100, 100, 200)
    assert (gaps["count"], gaps["min"], gaps["p50"], gaps["p90"]) == (3, 10, 50, 100)
    assert report["throughput"] == {
        **{"tokens": 5, "cycles": 350, "cycles_per_token": 70.0},
        "tokens_per_million_cycles": 14285.714,
    }
    assert report["kv_blocks"] == {"there": 17, "used": 2, "peak": 5}
    one, two, three, four = report["requests"]
    assert (one["arrival"], one["submitted"], one["token_cycles"], one["ended"]) == (
        0,
        0,
        [200, 250, 350],
        350,
    )
    assert (one["text"], one["prompt"], one["prompt_tokens"], one["error"]) == ("xyz", "ab", 2, None)
    assert (two["arrival"], two["submitted"], two["time_to_first_token"]) == (50, 100, 100)
    assert three["status"] == 0x24 and three["error"].startswith("PACKET_CRC") and three["tokens"] == []
    assert four["number"] is None and four["error"] == "too long"
    assert json.loads(json.dumps(report)) == report


def test_shown_report(report):
    console = Console(file=io.StringIO(), width=110)
    show_report(console, report)
    text = console.file.getvalue()
    assert "to the first token" in text and "between tokens" in text
    assert "2 served, 2 failed" in text
    assert "70.0 cycles per token, 14,285.714 tokens per million cycles" in text
    assert "5 at most of 16, 2 now" in text
    assert "request 3" in text and "too long" in text and "fault" in text


def test_report_without_cycles():
    one = Served(0, Wanted((1,), None, 2), None, handle(0, [None, None], submitted=None))
    one.handle.ended_at = None
    report = build_report([one], None, STATS, {})
    assert report["time_to_first_token"] is report["inter_token_latency"] is None
    assert report["throughput"] == {"tokens": 2, "cycles": None}
    console = Console(file=io.StringIO(), width=110)
    show_report(console, report)
    assert "1 served" in console.file.getvalue()
