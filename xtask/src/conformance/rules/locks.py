"""Locks across processes, over close(2), and waiting for them."""

import errno
import fcntl
import os
import signal
import struct
import time

from support import Rules, write

FLOCK = "hhqqi4x"
# Python 3.11 has no names for these.
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
TAKEN = (errno.EAGAIN, errno.EACCES)


def lock(file, kind, start=0, length=0, command=fcntl.F_SETLK):
    """fcntl(2); answers (kind, start, length, pid)."""
    asked = struct.pack(FLOCK, kind, os.SEEK_SET, start, length, 0)
    kind, _, start, length, pid = struct.unpack(FLOCK, fcntl.fcntl(file, command, asked))
    return kind, start, length, pid


def is_free(file, kind, start=0, length=0, command=fcntl.F_SETLK):
    """Whether the lock can be had; it is not kept."""
    try:
        lock(file, kind, start, length, command)
    except OSError as error:
        if error.errno in TAKEN:
            return False
        raise
    lock(file, fcntl.F_UNLCK, start, length, command)
    return True


def opened(path="file"):
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


class Locks(Rules):
    def is_free_elsewhere(self, kind, start=0, length=0, expected=True):
        def look():
            assert is_free(opened(), kind, start, length) == expected

        self.elsewhere(look)

    def test_ranges_hold_across_processes(self):
        file = opened()
        lock(file, fcntl.F_WRLCK, 10, 10)
        self.is_free_elsewhere(fcntl.F_RDLCK, 19, 1, expected=False)
        self.is_free_elsewhere(fcntl.F_WRLCK, 20, 10)
        self.is_free_elsewhere(fcntl.F_WRLCK, 0, 10)
        lock(file, fcntl.F_RDLCK, 10, 10)
        self.is_free_elsewhere(fcntl.F_RDLCK, 0, 0)
        self.is_free_elsewhere(fcntl.F_WRLCK, 0, 0, expected=False)
        lock(file, fcntl.F_UNLCK)
        self.is_free_elsewhere(fcntl.F_WRLCK)
        os.close(file)

    def test_getlk_names_the_holder(self):
        file = opened()
        lock(file, fcntl.F_WRLCK, 5, 5)
        holder = os.getpid()

        def look():
            found = lock(opened(), fcntl.F_RDLCK, 0, 0, fcntl.F_GETLK)
            assert found == (fcntl.F_WRLCK, 5, 5, holder), found

        self.elsewhere(look)
        os.close(file)

    def test_any_close_ends_the_locks_of_a_process(self):
        file = opened()
        lock(file, fcntl.F_WRLCK)
        os.close(opened())
        self.is_free_elsewhere(fcntl.F_WRLCK)
        os.close(file)

    def test_children_inherit_no_ranges(self):
        file = opened()
        lock(file, fcntl.F_WRLCK)

        def look():
            assert not is_free(file, fcntl.F_WRLCK)
            os.close(file)

        self.elsewhere(look)
        self.is_free_elsewhere(fcntl.F_WRLCK, expected=False)
        os.close(file)

    def test_ranges_survive_exec(self):
        path = os.path.abspath("file")
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            file = opened()
            lock(file, fcntl.F_WRLCK)
            os.set_inheritable(file, True)
            os.set_inheritable(theirs, True)
            os.execvp("sh", ["sh", "-c", f"echo ready >&{theirs}; exec sleep 60"])
        os.read(ours, 6)
        self.assertFalse(is_free(opened(path), fcntl.F_WRLCK))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self.assertTrue(is_free(opened(path), fcntl.F_WRLCK))
        os.close(ours)
        os.close(theirs)

    def test_the_killed_hold_nothing(self):
        child, _ = self.holder(lambda file: lock(file, fcntl.F_WRLCK))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self.assertTrue(is_free(opened(), fcntl.F_WRLCK))

    def holder(self, take):
        """A process that holds a lock until it is killed or its pipe is closed."""
        ready, is_ready = os.pipe()
        wait, go_on = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(go_on)
            file = opened()
            take(file)
            os.write(is_ready, b"1")
            os.read(wait, 1)
            os._exit(0)
        os.close(is_ready)
        os.close(wait)
        self.assertEqual(os.read(ready, 1), b"1")
        os.close(ready)
        return child, go_on

    def test_open_file_descriptions_exclude_each_other(self):
        one, two = opened(), opened()
        lock(one, fcntl.F_WRLCK, 0, 10, F_OFD_SETLK)
        self.assertFalse(is_free(two, fcntl.F_RDLCK, 9, 1, F_OFD_SETLK))
        self.assertTrue(is_free(two, fcntl.F_RDLCK, 10, 1, F_OFD_SETLK))
        found = lock(two, fcntl.F_WRLCK, 0, 0, F_OFD_GETLK)
        self.assertEqual(found, (fcntl.F_WRLCK, 0, 10, -1))
        self.assertFalse(is_free(two, fcntl.F_WRLCK, 0, 10), "they meet the locks of processes")
        os.close(two)
        os.close(one)

    def test_open_file_descriptions_keep_locks_over_other_closes(self):
        one, two = opened(), opened()
        lock(one, fcntl.F_WRLCK, 0, 0, F_OFD_SETLK)
        os.close(opened())
        self.assertFalse(is_free(two, fcntl.F_WRLCK, 0, 0, F_OFD_SETLK))
        again = os.dup(one)
        os.close(one)
        self.assertFalse(is_free(two, fcntl.F_WRLCK, 0, 0, F_OFD_SETLK))
        # A child has the same description: it may change the lock, and its close ends nothing.
        self.elsewhere(lambda: lock(again, fcntl.F_RDLCK, 0, 0, F_OFD_SETLK))
        self.assertTrue(is_free(two, fcntl.F_RDLCK, 0, 0, F_OFD_SETLK))
        self.assertFalse(is_free(two, fcntl.F_WRLCK, 0, 0, F_OFD_SETLK))
        os.close(again)
        self.assertTrue(is_free(two, fcntl.F_WRLCK, 0, 0, F_OFD_SETLK))
        os.close(two)

    def test_flock_is_of_the_description(self):
        one, two = opened(), opened()
        fcntl.flock(one, fcntl.LOCK_EX)
        self.fails(errno.EAGAIN, fcntl.flock, two, fcntl.LOCK_SH | fcntl.LOCK_NB)
        again = os.dup(one)
        os.close(one)
        os.close(opened())
        self.fails(errno.EAGAIN, fcntl.flock, two, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self.elsewhere(lambda: fcntl.flock(again, fcntl.LOCK_SH))
        fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self.fails(errno.EAGAIN, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(again)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(two)

    def test_flock_and_ranges_know_nothing_of_each_other(self):
        one, two = opened(), opened()
        fcntl.flock(one, fcntl.LOCK_EX)
        lock(two, fcntl.F_WRLCK, 0, 0, F_OFD_SETLK)
        self.is_free_elsewhere(fcntl.F_WRLCK, expected=False)
        os.close(two)
        self.is_free_elsewhere(fcntl.F_WRLCK)
        os.close(one)

    def test_flock_8(self):
        write("file")
        self.elsewhere(lambda: os.execvp("flock", ["flock", "-n", "file", "true"]))
        file = opened()
        fcntl.flock(file, fcntl.LOCK_EX)
        self.elsewhere(lambda: os.execvp("flock", ["flock", "-n", "-E", "0", "file", "false"]))
        os.close(file)

    def test_locks_stay_with_a_renamed_and_an_unlinked_file(self):
        file = opened()
        other = opened()
        lock(file, fcntl.F_WRLCK, 0, 0, F_OFD_SETLK)
        os.rename("file", "moved")
        self.assertFalse(is_free(opened("moved"), fcntl.F_WRLCK, 0, 0, F_OFD_SETLK))
        os.unlink("moved")
        self.assertFalse(is_free(other, fcntl.F_WRLCK, 0, 0, F_OFD_SETLK))
        self.assertTrue(is_free(opened(), fcntl.F_WRLCK, 0, 0, F_OFD_SETLK), "a new file of the old name")
        os.close(other)
        os.close(file)

    def waits(self, hold, wait):
        """Whoever waits gets the lock when its holder lets go, and not before."""
        child, go_on = self.holder(hold)
        released = None

        def let_go(*_):
            nonlocal released
            released = time.monotonic()
            os.close(go_on)

        signal.signal(signal.SIGALRM, let_go)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        file = opened()
        # Python calls again what was interrupted.
        wait(file)
        self.assertIsNotNone(released)
        os.waitpid(child, 0)
        os.close(file)

    def test_waiting_for_ranges(self):
        self.waits(lambda file: lock(file, fcntl.F_WRLCK),
                   lambda file: lock(file, fcntl.F_WRLCK, command=fcntl.F_SETLKW))

    def test_waiting_for_descriptions(self):
        self.waits(lambda file: lock(file, fcntl.F_WRLCK, command=F_OFD_SETLK),
                   lambda file: lock(file, fcntl.F_RDLCK, command=F_OFD_SETLKW))

    def test_waiting_for_flock(self):
        self.waits(lambda file: fcntl.flock(file, fcntl.LOCK_SH),
                   lambda file: fcntl.flock(file, fcntl.LOCK_EX))

    def interrupted(self, hold, wait):
        """A signal ends the waiting, and so does death."""
        child, go_on = self.holder(hold)

        class Interrupt(Exception):
            pass

        def interrupt(*_):
            raise Interrupt

        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        file = opened()
        with self.assertRaises(Interrupt):
            wait(file)
        os.close(file)

        waiter = os.fork()
        if waiter == 0:
            wait(opened())
            os._exit(1)
        time.sleep(0.1)
        os.kill(waiter, signal.SIGKILL)
        _, status = os.waitpid(waiter, 0)
        self.assertEqual(os.waitstatus_to_exitcode(status), -signal.SIGKILL)
        os.close(go_on)
        os.waitpid(child, 0)
        # Who gave up waits no more.
        self.assertTrue(is_free(opened(), fcntl.F_WRLCK))

    def test_waiting_for_ranges_can_be_interrupted(self):
        self.interrupted(lambda file: lock(file, fcntl.F_WRLCK),
                         lambda file: lock(file, fcntl.F_WRLCK, command=fcntl.F_SETLKW))

    def test_waiting_for_descriptions_can_be_interrupted(self):
        self.interrupted(lambda file: lock(file, fcntl.F_WRLCK, command=F_OFD_SETLK),
                         lambda file: lock(file, fcntl.F_WRLCK, command=F_OFD_SETLKW))

    def test_waiting_for_flock_can_be_interrupted(self):
        self.interrupted(lambda file: fcntl.flock(file, fcntl.LOCK_EX),
                         lambda file: fcntl.flock(file, fcntl.LOCK_EX))

    def test_a_deadlock_is_found(self):
        file = opened()
        lock(file, fcntl.F_WRLCK, 0, 1)
        child = os.fork()
        if child == 0:
            mine = opened()
            lock(mine, fcntl.F_WRLCK, 1, 1)
            lock(mine, fcntl.F_WRLCK, 0, 1, fcntl.F_SETLKW)
            os._exit(0)
        while is_free(file, fcntl.F_WRLCK, 1, 1):
            time.sleep(0.01)
        # It waits for us, or soon will; then it would be its call that fails.
        time.sleep(0.2)
        self.fails(errno.EDEADLK, lock, file, fcntl.F_WRLCK, 1, 1, fcntl.F_SETLKW)
        os.close(file)
        _, status = os.waitpid(child, 0)
        self.assertEqual(status, 0)
