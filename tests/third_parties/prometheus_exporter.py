"""prometheus_client's exporter. Its arguments: where it listens, and what else `start_http_server` is to be given."""

import sys

from common import made_of, meet, say, until_interrupted
from prometheus_client import REGISTRY, Counter, start_http_server
from prometheus_client.core import GaugeMetricFamily


class Slow:
    def collect(self) -> list[GaugeMetricFamily]:
        meet()
        return [GaugeMetricFamily("slow", "which takes its time", value=1)]

    def describe(self) -> list[GaugeMetricFamily]:  # so that it is not asked when it is registered
        return [GaugeMetricFamily("slow", "which takes its time")]


if __name__ == "__main__":
    address, certificate, key = sys.argv[1:]
    REGISTRY.register(Slow())
    counter = Counter("requests", "that were made", ["path"])
    counter.labels("/here").inc(3)
    server, thread = start_http_server(0, address, certfile=certificate or None, keyfile=key or None)
    say(made_of(type(server)), server.server_port)
    until_interrupted()
    server.shutdown()
    thread.join()
    server.server_close()
    say(thread.is_alive(), server.fileno())
