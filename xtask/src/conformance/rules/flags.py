"""What chattr(1) sets, through the system calls."""

import errno
import fcntl
import os
import struct
import subprocess

from support import Rules, read, write

GET_FLAGS, SET_FLAGS = 0x80086601, 0x40086602
GET_EXTENDED, SET_EXTENDED = 0x801C581F, 0x401C5820


def chattr(change, path):
    subprocess.run(["chattr", change, path], check=True)


def letters(path):
    """What lsattr shows of those that both filesystems know."""
    run = subprocess.run(["lsattr", "-d", path], check=True, capture_output=True, text=True)
    return "".join(letter for letter in run.stdout.split()[0] if letter in "iadA")


class Flags(Rules):
    def tearDown(self):
        subprocess.run(["chattr", "-R", "-f", "-i", "-a", self.folder], check=True)
        super().tearDown()

    def test_they_are_shown_and_taken_back(self):
        write("file")
        os.mkdir("directory")
        for path in ["file", "directory"]:
            self.assertEqual(letters(path), "")
            for flag in "iadA":
                chattr(f"+{flag}", path)
                self.assertEqual(letters(path), flag)
                chattr(f"-{flag}", path)
            self.assertEqual(letters(path), "")

    def test_both_pairs_of_ioctls_agree(self):
        write("file")
        file = os.open("file", os.O_RDONLY)
        chattr("+ad", "file")
        flags, = struct.unpack("i", fcntl.ioctl(file, GET_FLAGS, bytes(4)))
        self.assertEqual(flags & 0xF0, 0x60)
        extended = fcntl.ioctl(file, GET_EXTENDED, bytes(28))
        self.assertEqual(extended[0] & 0xF8, 0x90)
        fcntl.ioctl(file, SET_EXTENDED, bytes([0x08]) + extended[1:])
        self.assertEqual(letters("file"), "i")
        os.close(file)

    def test_only_root_forbids(self):
        write("file", "text")
        os.chown("file", 1001, 1001)
        fcntl_fails = lambda bits: self.fails(
            errno.EPERM, fcntl.ioctl, os.open("file", os.O_RDONLY), SET_FLAGS, struct.pack("i", bits))
        self.elsewhere(lambda: fcntl_fails(0x10), uid=1001)
        self.elsewhere(lambda: fcntl_fails(0x20), uid=1001)
        self.elsewhere(lambda: fcntl_fails(0x40), uid=1002)
        self.elsewhere(lambda: chattr("+d", "file"), uid=1001)
        self.assertEqual(letters("file"), "d")

    def restricted(self):
        """What neither kind of file allows."""
        write("other")
        self.fails(errno.EPERM, open, "file", "w")
        self.fails(errno.EPERM, open, "file", "r+")
        self.fails(errno.EPERM, os.truncate, "file", 1)
        self.fails(errno.EPERM, os.chmod, "file", 0o600)
        self.fails(errno.EPERM, os.chown, "file", 1, 1)
        self.fails(errno.EPERM, os.utime, "file", (5, 5))
        self.fails(errno.EPERM, os.setxattr, "file", "user.a", b"1")
        self.fails(errno.EPERM, os.removexattr, "file", "user.kept")
        self.fails(errno.EPERM, os.link, "file", "second")
        self.fails(errno.EPERM, os.unlink, "file")
        self.fails(errno.EPERM, os.rename, "file", "new")
        self.fails(errno.EPERM, os.rename, "other", "file")

    def test_immutable_files(self):
        write("file", "text")
        os.setxattr("file", "user.kept", b"1")
        chattr("+i", "file")
        before = os.stat("file")
        self.restricted()
        self.fails(errno.EPERM, open, "file", "a")
        self.fails(errno.EPERM, os.utime, "file")
        self.assertEqual(os.stat("file").st_ctime_ns, before.st_ctime_ns)
        self.assertEqual(os.stat("file").st_mtime_ns, before.st_mtime_ns)
        self.assertEqual(read("file"), "text")

    def test_append_only_files(self):
        write("file", "text")
        os.setxattr("file", "user.kept", b"1")
        chattr("+a", "file")
        self.restricted()
        self.fails(errno.EPERM, os.open, "file", os.O_WRONLY | os.O_APPEND | os.O_TRUNC)
        with open("file", "a") as file:
            file.write(" and more")
            self.fails(errno.EPERM, os.ftruncate, file.fileno(), 0)
        os.utime("file")
        self.assertEqual(read("file"), "text and more")

    def test_immutable_directories(self):
        os.mkdir("directory")
        os.mkdir("directory/sub")
        write("directory/file")
        write("outside")
        chattr("+i", "directory")
        self.fails(errno.EPERM, open, "directory/new", "w")
        self.fails(errno.EPERM, os.mkdir, "directory/new")
        self.fails(errno.EPERM, os.mkfifo, "directory/new")
        self.fails(errno.EPERM, os.symlink, "x", "directory/new")
        self.fails(errno.EPERM, os.link, "outside", "directory/new")
        self.fails(errno.EPERM, os.unlink, "directory/file")
        self.fails(errno.EPERM, os.rmdir, "directory/sub")
        self.fails(errno.EPERM, os.rename, "directory/file", "file")
        self.fails(errno.EPERM, os.rename, "outside", "directory/outside")
        self.fails(errno.EPERM, os.rename, "directory", "other")
        self.fails(errno.EPERM, os.rmdir, "directory")
        self.fails(errno.EEXIST, os.mkdir, "directory/sub")
        write("directory/file", "its contents are not concerned")

    def test_append_only_directories(self):
        os.mkdir("directory")
        chattr("+a", "directory")
        write("directory/file")
        write("outside")
        os.rename("outside", "directory/in")
        write("outside")
        self.fails(errno.EPERM, os.rename, "outside", "directory/in")
        self.fails(errno.EPERM, os.unlink, "directory/file")
        self.fails(errno.EPERM, os.rename, "directory/file", "directory/other")

    def test_new_files_inherit_what_forbids_nothing(self):
        os.mkdir("directory")
        chattr("+dA", "directory")
        write("directory/file")
        os.mkdir("directory/sub")
        self.assertEqual([letters("directory/file"), letters("directory/sub")], ["dA", "dA"])
        chattr("+a", "directory")
        write("directory/later")
        self.assertEqual(letters("directory/later"), "dA")
