"""What `storage.journal` brings: samples that come by and by, and POST, with it and without, in turns."""

from __future__ import annotations

from collections.abc import Iterator

from pingup.bench.cases import live, rest
from pingup.bench.generator import send_once
from pingup.bench.load import Sent
from pingup.bench.report import Measurement
from pingup.bench.server import Server
from pingup.bench.stage import Stage, register
from pingup.bench.stored import check_count

WAYS = {"journal": True, "no journal": False}


def measure(stage: Stage) -> Iterator[Measurement]:
    seen: dict[str, list[live.Seen]] = {way: [] for way in WAYS}
    posts: dict[str, list[Sent]] = {way: [] for way in WAYS}
    data_dirs = {way: stage.directory / way.replace(" ", "-") for way in WAYS}
    loads = [live.load_of(stage, run) for run in stage.runs()]
    many = rest.many_posts(stage)
    for run, load in enumerate(loads):
        for way, journal in WAYS.items():
            with Server.start(data_dirs[way], journal=journal) as server:
                if run == 0:
                    register(server, rest.CONNECTIONS)
                seen[way].append(live.watch(server, server.mqtt, load))
                posts[way].append(send_once(many, server.http))
    for way in WAYS:
        samples = sum(load.messages for load in loads) + sum(sent.messages for sent in posts[way])
        checked = check_count(data_dirs[way], samples)
        yield from live.rows(f"{way}: live", seen[way])
        name = f"{way}: POST, {rest.CONNECTIONS} connections"
        yield Measurement(name, "/s", [sent.rate for sent in posts[way]], rest.POSTED, checked)
        yield from rest.latencies(name, posts[way])
