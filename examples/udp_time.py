"""The time, by UDP: who sends a datagram is sent the seconds since 1900, as RFC 868 has it.

Run it as `python udp_time.py udp://127.0.0.1:3737`, which takes no privileges; the port of the protocol is 37.
"""

import struct
import sys
import time

import plugsocket
from plugsocket import AsyncDatagram

FROM_1900_TO_1970 = 2_208_988_800  # seconds
SECONDS = struct.Struct("!I")  # 32 bits, which begin anew in 2036


async def tell_time(datagram: AsyncDatagram) -> None:
    """Handle one datagram: whatever it says, it asks for the time."""
    now = int(time.time()) + FROM_1900_TO_1970
    await datagram.reply(SECONDS.pack(now % 2**32))


if __name__ == "__main__":
    (endpoint,) = sys.argv[1:] or ("udp://127.0.0.1:3737",)
    plugsocket.run(endpoint, tell_time, started=print)
