"""What the rules share: a folder for each test, and doing things as somebody else."""

import errno
import os
import shutil
import sys
import traceback
import unittest


class Rules(unittest.TestCase):
    """Each test has an empty folder of its own, in which it starts."""

    def setUp(self):
        self.start = os.getcwd()
        self.folder = os.path.join(self.start, self.id().rsplit(".", 1)[-1])
        os.mkdir(self.folder)
        os.chmod(self.folder, 0o777)
        os.chdir(self.folder)
        self.umask = os.umask(0o022)

    def tearDown(self):
        os.umask(self.umask)
        os.chdir(self.start)
        shutil.rmtree(self.folder)

    def fails(self, number, function, *arguments, **named):
        """Asserts that a call fails with this errno."""
        with self.assertRaises(OSError) as caught:
            function(*arguments, **named)
        self.assertEqual(errno.errorcode[caught.exception.errno], errno.errorcode[number])

    def mode(self, path):
        return os.lstat(path).st_mode & 0o7777

    def elsewhere(self, function, uid=None, gid=None, groups=()):
        """Runs a function in a process of its own, perhaps as another user; it must end well."""
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if uid is not None:
                    os.setgroups(list(groups))
                    os.setgid(uid if gid is None else gid)
                    os.setuid(uid)
                function()
                code = 0
            except BaseException:
                traceback.print_exc(file=sys.stderr)
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        self.assertEqual(os.waitstatus_to_exitcode(status), 0, "what was done elsewhere failed")


def write(path, text="", mode=0o644):
    """Makes a file with exactly this mode."""
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def read(path):
    with open(path) as file:
        return file.read()
