"""dnslib's server, over UDP and over TCP."""

import sys

from common import made_of, meet, say, until_interrupted
from dnslib import DNSRecord
from dnslib.server import DNSHandler, DNSLogger, DNSServer
from dnslib.zoneresolver import ZoneResolver

ZONE = """
here.test. 60 IN A 127.0.0.1
here.test. 60 IN AAAA ::1
here.test. 60 IN MX 10 mail.here.test.
mail.here.test. 60 IN A 127.0.0.2
meet.here.test. 60 IN A 127.0.0.3
long.here.test. 60 IN TXT {}
""".format(" ".join(f'"{number:0250}"' for number in range(20)))


class Resolver(ZoneResolver):
    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        if request.q.qname == "meet.here.test.":
            meet()
        return super().resolve(request, handler)


if __name__ == "__main__":
    DNSHandler.udplen = 512
    resolver = Resolver(ZONE)
    servers = [
        DNSServer(resolver, address=sys.argv[1], port=0, tcp=tcp, logger=DNSLogger("error", prefix=False, logf=say))
        for tcp in (False, True)
    ]
    for server in servers:
        server.start_thread()
        say(made_of(type(server.server)), server.server.server_address[1])
    until_interrupted()
    for server in servers:
        server.stop()
        server.thread.join()
        server.server.server_close()
        say(server.isAlive(), server.server.fileno())
