"""Decoder that crashes or hangs on some files: by content, or at the frame that the environment variable TRAP names."""

import os
import signal
import socket
import subprocess
import time

import numpy as np

from rigface.video.sandbox import SandboxedDecoder


class Trap(SandboxedDecoder):
    """Decoder of the child process."""

    count = 0

    def _open(self, file, fps):
        if file == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if file == b"hang":
            time.sleep(60)
        if file == b"connect":
            socket.create_connection(("127.0.0.1", 9))
        if file == b"start":
            subprocess.run(["true"])
        if file == b"greedy":
            np.ones(2**29)
        self.count = 0
        super()._open(file, fps)

    def _picture(self, data, *rest):
        if data == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if data == b"hang":
            time.sleep(60)
        return super()._picture(data, *rest)

    def _next(self):
        self.count += 1
        if self.count == int(os.environ.get("TRAP", 0)):
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(float(os.environ.get("TRAP_S", 0)))
        return super()._next()
