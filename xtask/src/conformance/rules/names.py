"""renameat2(2), and what is made by links and without names."""

import ctypes
import errno
import os
import stat

from support import Rules, read, write

libc = ctypes.CDLL(None, use_errno=True)
NO_REPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400


def checked(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename(old, new, flags):
    checked(libc.renameat2(AT_FDCWD, old.encode(), AT_FDCWD, new.encode(), flags))


def link_open(file, name):
    """Gives an open file a name."""
    path = f"/proc/self/fd/{file}"
    checked(libc.linkat(AT_FDCWD, path.encode(), AT_FDCWD, name.encode(), AT_SYMLINK_FOLLOW))


class Renames(Rules):
    def test_no_replace(self):
        write("a", "a")
        write("b", "b")
        self.fails(errno.EEXIST, rename, "a", "b", NO_REPLACE)
        rename("a", "c", NO_REPLACE)
        self.assertEqual([read("b"), read("c")], ["b", "a"])

    def test_exchange(self):
        write("a", "a")
        os.mkdir("b")
        write("b/inside", "b")
        rename("a", "b", EXCHANGE)
        self.assertEqual([read("b"), read("a/inside")], ["a", "b"])
        self.fails(errno.ENOENT, rename, "a", "none", EXCHANGE)
        self.fails(errno.EINVAL, rename, "a", "a/inside", EXCHANGE)
        self.fails(errno.EINVAL, rename, "a", "b", EXCHANGE | NO_REPLACE)

    def test_whiteout(self):
        write("a", "a")
        write("b", "b")
        rename("a", "b", WHITEOUT)
        self.assertEqual(read("b"), "a")
        left = os.lstat("a")
        self.assertEqual((stat.S_IFMT(left.st_mode), left.st_rdev, left.st_nlink), (stat.S_IFCHR, 0, 1))
        self.fails(errno.EINVAL, rename, "a", "b", WHITEOUT | EXCHANGE)
        os.unlink("a")
        os.mkdir("directory")
        rename("directory", "moved", WHITEOUT | NO_REPLACE)
        self.assertEqual(sorted(os.listdir(".")), ["b", "directory", "moved"])
        self.assertTrue(stat.S_ISCHR(os.lstat("directory").st_mode))


class Nameless(Rules):
    def test_a_file_without_a_name_gets_one(self):
        file = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
        os.write(file, b"text")
        self.assertEqual(os.fstat(file).st_nlink, 0)
        self.assertEqual(os.listdir("."), [])
        link_open(file, "name")
        self.assertEqual((os.fstat(file).st_nlink, read("name"), self.mode("name")), (1, "text", 0o640))
        os.close(file)

    def test_an_exclusive_one_gets_none(self):
        file = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o640)
        self.fails(errno.ENOENT, link_open, file, "name")
        os.close(file)

    def test_an_unlinked_file_stays_until_it_is_closed(self):
        write("file", "text")
        file = os.open("file", os.O_RDWR)
        os.unlink("file")
        self.assertEqual((os.fstat(file).st_nlink, os.read(file, 10)), (0, b"text"))
        os.ftruncate(file, 1)
        self.assertEqual(os.fstat(file).st_size, 1)
        self.fails(errno.ENOENT, link_open, file, "name")
        os.close(file)
