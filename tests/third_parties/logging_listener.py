"""`logging.config.listen`: the configuration of this program's log is what a client sends."""

import logging
import logging.config
import sys

from common import made_of, say

if __name__ == "__main__":
    thread = logging.config.listen(0)
    thread.start()
    thread.ready.wait()
    say(made_of(thread.rcvr), thread.port)
    for line in sys.stdin:
        logging.getLogger("program").info(line.rstrip())
    logging.config.stopListening()
    thread.join()
    say("stopped")
