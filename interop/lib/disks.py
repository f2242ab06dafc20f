"""Disks as tests want them: small ones that can be filled, and slow ones."""

import os
import shutil
import struct
import subprocess
import tempfile
import time

SLOW_SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "slow.c")


class NotHere(Exception):
    """This machine doesn't allow what a test needs: it is not run, and says so."""


class SmallDisk:
    """A file system of so many MiB, ext4 in a file or, where that can't be had, tmpfs."""

    def __init__(self, mib):
        self.mib = mib
        self.admin = [] if os.geteuid() == 0 else ["sudo", "-n"]
        self.base = tempfile.mkdtemp(prefix="falconer-interop-disk-")
        self.image, self.path = os.path.join(self.base, "image"), os.path.join(self.base, "mounted")
        os.mkdir(self.path)
        if self.mount_ext4():
            self.kind = "ext4"
        elif self.run("mount", "-t", "tmpfs", "-o", f"size={self.mib}m,mode=777", "falconer-interop", self.path):
            self.kind = "tmpfs"
        else:
            shutil.rmtree(self.base)
            raise NotHere("no small file system can be mounted here: root, or sudo without a password, is needed")
        self.filler = os.path.join(self.path, "filler")

    def run(self, *command):
        try:
            return subprocess.run([*self.admin, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
        except OSError:  # no such program, or not for this user
            return False

    def mount_ext4(self):
        with open(self.image, "wb") as file:
            file.truncate(self.mib << 20)
        mounted = (self.run("mkfs.ext4", "-q", "-F", "-m", "0", self.image)
                   and self.run("mount", "-o", "loop", self.image, self.path))
        if mounted and not self.run("chmod", "777", self.path):
            self.run("umount", self.path)
            return False
        return mounted

    def fill(self):
        """Takes what room there is, to the last block."""
        with open(self.filler, "ab", buffering=0) as file:
            for chunk in (1 << 20, 1 << 12):
                zeros = bytes(chunk)
                try:
                    while file.write(zeros) == chunk:
                        pass
                except OSError:
                    pass

    def empty(self):
        os.unlink(self.filler)

    def remove(self):
        for _ in range(50):
            if self.run("umount", self.path):
                shutil.rmtree(self.base, ignore_errors=True)
                return
            time.sleep(0.1)
        self.run("umount", "-l", self.path)
        shutil.rmtree(self.base, ignore_errors=True)


class SlowDisk:
    """Makes what one server's process does to become durable slower, as long as it is told to (slow.c)."""

    def __init__(self):
        self.base = tempfile.mkdtemp(prefix="falconer-interop-slow-")
        library, self.delay = os.path.join(self.base, "slow.so"), os.path.join(self.base, "delay")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SLOW_SOURCE], check=True)
        self.set(0.0)
        # io_uring makes no calls that could be slowed down.
        self.prefix = ["env", f"LD_PRELOAD={library}", f"SLOW_DISK={self.delay}"]
        self.flags = ["-Dfalconer.walBackend=pwritev2"]

    def set(self, seconds):
        """From now on each such call takes so much longer."""
        with open(self.delay, "r+b" if os.path.exists(self.delay) else "wb") as file:
            file.write(struct.pack("=I", int(seconds * 1e6)))

    def remove(self):
        shutil.rmtree(self.base, ignore_errors=True)
