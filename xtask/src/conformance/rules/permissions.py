"""Users, groups, ACLs, the umask, and what takes set-user-id away."""

import errno
import os
import subprocess

from support import Rules, read, write

ANNA, BERT, TEAM = 1001, 1002, 2000


def setfacl(*arguments):
    subprocess.run(["setfacl", *arguments], check=True)


def getfacl(path):
    """The entries, without comments."""
    run = subprocess.run(["getfacl", "--omit-header", "--numeric", "--absolute-names", path],
                         check=True, capture_output=True, text=True)
    return [line.split("\t")[0] for line in run.stdout.split("\n") if line]


def owned(path, uid, gid, mode):
    write(path, "text")
    os.chown(path, uid, gid)
    os.chmod(path, mode)


class Groups(Rules):
    def test_supplementary_groups_count(self):
        owned("file", 0, TEAM, 0o660)
        self.elsewhere(lambda: read("file"), uid=ANNA, groups=[5, TEAM])
        self.elsewhere(lambda: self.fails(errno.EACCES, read, "file"), uid=ANNA, groups=[5])
        os.chmod("file", 0o604)
        self.elsewhere(lambda: self.fails(errno.EACCES, read, "file"), uid=ANNA, groups=[TEAM])
        self.elsewhere(lambda: read("file"), uid=ANNA)

    def test_many_supplementary_groups_count(self):
        owned("file", 0, TEAM, 0o640)
        self.elsewhere(lambda: read("file"), uid=ANNA, groups=[*range(3000, 3200), TEAM])

    def test_owners_give_to_their_groups_only(self):
        owned("file", ANNA, ANNA, 0o644)
        self.elsewhere(lambda: os.chown("file", -1, TEAM), uid=ANNA, groups=[TEAM])
        self.assertEqual(os.stat("file").st_gid, TEAM)
        self.elsewhere(lambda: self.fails(errno.EPERM, os.chown, "file", -1, 4000), uid=ANNA, groups=[TEAM])
        self.elsewhere(lambda: self.fails(errno.EPERM, os.chown, "file", BERT, -1), uid=ANNA)
        self.elsewhere(lambda: self.fails(errno.EPERM, os.chown, "file", -1, BERT), uid=BERT)

    def test_set_group_id_on_a_directory_is_inherited(self):
        os.mkdir("directory")
        os.chown("directory", ANNA, TEAM)
        os.chmod("directory", 0o2777)

        def make():
            os.mkdir("directory/sub")
            write("directory/file")

        self.elsewhere(make, uid=BERT)
        self.assertEqual(os.stat("directory/sub").st_gid, TEAM)
        self.assertEqual(self.mode("directory/sub"), 0o2755)
        self.assertEqual(os.stat("directory/file").st_gid, TEAM)

    def test_set_group_id_is_for_members(self):
        owned("file", ANNA, TEAM, 0o755)
        self.elsewhere(lambda: os.chmod("file", 0o2755), uid=ANNA)
        self.assertEqual(self.mode("file"), 0o755)
        self.elsewhere(lambda: os.chmod("file", 0o2755), uid=ANNA, groups=[TEAM])
        self.assertEqual(self.mode("file"), 0o2755)

    def test_an_acl_by_a_stranger_to_the_group_takes_set_group_id(self):
        owned("file", ANNA, TEAM, 0o2755)
        self.elsewhere(lambda: setfacl("-m", "u:5:r", "file"), uid=ANNA, groups=[TEAM])
        self.assertEqual(self.mode("file"), 0o2755)
        self.elsewhere(lambda: setfacl("-m", "u:6:r", "file"), uid=ANNA)
        self.assertEqual(self.mode("file"), 0o755)

    def test_new_files_in_a_set_group_id_directory_have_it_by_members_only(self):
        os.mkdir("directory")
        os.chown("directory", 0, TEAM)
        os.chmod("directory", 0o2777)

        def make(name):
            os.umask(0)
            os.close(os.open(f"directory/{name}", os.O_CREAT | os.O_WRONLY, 0o2775))

        self.elsewhere(lambda: make("stranger"), uid=ANNA)
        self.elsewhere(lambda: make("member"), uid=ANNA, groups=[TEAM])
        self.assertEqual(self.mode("directory/stranger"), 0o775)
        self.assertEqual(self.mode("directory/member"), 0o2775)

    def test_sticky_directories(self):
        os.mkdir("directory")
        os.chmod("directory", 0o1777)
        owned("directory/annas", ANNA, ANNA, 0o666)
        self.elsewhere(lambda: self.fails(errno.EPERM, os.unlink, "directory/annas"), uid=BERT)
        self.elsewhere(lambda: self.fails(errno.EPERM, os.rename, "directory/annas", "directory/x"), uid=BERT)
        self.elsewhere(lambda: os.unlink("directory/annas"), uid=ANNA)


class Privileges(Rules):
    """What a change by somebody without CAP_FSETID takes away."""

    def after(self, change, uid=BERT):
        owned("file", ANNA, ANNA, 0o6777)
        self.elsewhere(lambda: change("file"), uid=uid)
        return self.mode("file")

    def changes(self):
        def write_to(path):
            file = os.open(path, os.O_WRONLY)
            os.write(file, b"more")
            os.close(file)

        def copy_to(path):
            source = os.open("/proc/self/cmdline", os.O_RDONLY)
            os.close(source)
            write("source" + str(os.getuid()), "source")
            source = os.open("source" + str(os.getuid()), os.O_RDONLY)
            file = os.open(path, os.O_WRONLY)
            os.copy_file_range(source, file, 6)
            os.close(file)

        def allocate(path):
            file = os.open(path, os.O_WRONLY)
            os.posix_fallocate(file, 0, 100)
            os.close(file)

        def truncated(path):
            os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))

        return [write_to, copy_to, allocate, truncated, lambda path: os.truncate(path, 1)]

    def test_a_users_changes_take_both(self):
        os.chmod(".", 0o777)
        for change in self.changes():
            self.assertEqual(oct(self.after(change)), oct(0o777), change)

    def test_roots_changes_take_nothing(self):
        for change in self.changes():
            self.assertEqual(oct(self.after(change, uid=0)), oct(0o6777), change)

    def test_a_change_of_owner_takes_both(self):
        owned("file", ANNA, ANNA, 0o6755)
        os.chown("file", BERT, BERT)
        self.assertEqual(self.mode("file"), 0o755)
        # Without execution by the group, set-group-id means mandatory locking, and stays.
        owned("file", ANNA, ANNA, 0o6745)
        os.chown("file", BERT, BERT)
        self.assertEqual(self.mode("file"), 0o2745)

    def test_a_change_of_owner_or_contents_takes_capabilities(self):
        owned("file", ANNA, ANNA, 0o755)
        capability = bytes.fromhex("0000000201000000000000000000000000000000")
        os.setxattr("file", "security.capability", capability)
        os.chown("file", BERT, BERT)
        self.fails(errno.ENODATA, os.getxattr, "file", "security.capability")
        os.setxattr("file", "security.capability", capability)
        with open("file", "a") as file:
            file.write("more")
        self.fails(errno.ENODATA, os.getxattr, "file", "security.capability")


class Acls(Rules):
    def test_the_umask_counts_without_a_default_acl(self):
        os.umask(0o077)
        os.close(os.open("file", os.O_CREAT, 0o666))
        os.mkdir("directory", 0o777)
        os.mkfifo("pipe", 0o666)
        self.assertEqual([self.mode(name) for name in ["file", "directory", "pipe"]], [0o600, 0o700, 0o600])

    def test_the_umask_does_not_count_with_a_default_acl(self):
        os.umask(0o077)
        setfacl("-d", "-m", "u::rwx,g::rwx,o::r-x", ".")
        os.close(os.open("file", os.O_CREAT, 0o666))
        os.mkdir("directory", 0o777)
        os.mkfifo("pipe", 0o662)
        self.assertEqual([self.mode(name) for name in ["file", "directory", "pipe"]], [0o664, 0o775, 0o660])

    def test_default_acls_are_inherited(self):
        setfacl("-d", "-m", f"u:{ANNA}:rwx,g:{TEAM}:r-x,o::---", ".")
        default = [f"default:{line}" for line in
                   ["user::rwx", f"user:{ANNA}:rwx", "group::rwx", f"group:{TEAM}:r-x", "mask::rwx", "other::---"]]
        os.mkdir("directory", 0o777)
        self.assertEqual(getfacl("directory"), [line.removeprefix("default:") for line in default] + default)
        os.mkdir("directory/deeper", 0o750)
        found = getfacl("directory/deeper")
        self.assertEqual(found[6:], default)
        self.assertIn("mask::r-x", found)
        os.close(os.open("directory/file", os.O_CREAT, 0o640))
        self.assertEqual(getfacl("directory/file"), [
            "user::rw-", f"user:{ANNA}:rwx", "group::rwx", f"group:{TEAM}:r-x", "mask::r--", "other::---"])
        os.symlink("x", "directory/link")
        self.assertEqual(self.mode("directory/link"), 0o777)

    def test_an_acl_lets_in_and_keeps_out(self):
        owned("file", 0, 0, 0o600)
        setfacl("-m", f"u:{ANNA}:r,g:{TEAM}:rw", "file")
        self.elsewhere(lambda: read("file"), uid=ANNA)
        self.elsewhere(lambda: self.fails(errno.EACCES, open, "file", "a"), uid=ANNA)
        self.elsewhere(lambda: open("file", "a").close(), uid=BERT, groups=[TEAM])
        self.elsewhere(lambda: self.fails(errno.EACCES, read, "file"), uid=BERT)
        # The mask bounds them; chmod sets it.
        os.chmod("file", 0o640)
        self.assertIn("mask::r--", getfacl("file"))
        self.elsewhere(lambda: self.fails(errno.EACCES, open, "file", "a"), uid=BERT, groups=[TEAM])
        setfacl("-b", "file")
        self.elsewhere(lambda: self.fails(errno.EACCES, read, "file"), uid=ANNA)

    def test_acls_are_the_owners_to_set(self):
        owned("file", ANNA, ANNA, 0o666)
        acl = os.getxattr
        self.elsewhere(lambda: setfacl("-m", f"u:{BERT}:rwx", "file"), uid=ANNA)
        value = acl("file", "system.posix_acl_access")
        self.elsewhere(lambda: self.fails(
            errno.EPERM, os.setxattr, "file", "system.posix_acl_access", value), uid=BERT)
        self.elsewhere(lambda: self.fails(
            errno.EPERM, os.removexattr, "file", "system.posix_acl_access"), uid=BERT)

    def test_acls_say_what_the_mode_says(self):
        owned("file", ANNA, ANNA, 0o640)
        setfacl("-m", f"u:{BERT}:rwx", "file")
        self.assertEqual(self.mode("file"), 0o670)
        setfacl("-m", "u::r,o::x", "file")
        self.assertEqual(self.mode("file"), 0o471)
        os.chmod("file", 0o752)
        self.assertEqual(getfacl("file"),
                         ["user::rwx", f"user:{BERT}:rwx", "group::r--", "mask::r-x", "other::-w-"])

    def test_default_acls_are_for_directories(self):
        write("file")
        os.mkdir("directory")
        setfacl("-d", "-m", f"u:{BERT}:rwx", "directory")
        value = os.getxattr("directory", "system.posix_acl_default")
        self.fails(errno.EACCES, os.setxattr, "file", "system.posix_acl_default", value)
        os.symlink("file", "link")
        self.fails(errno.EOPNOTSUPP, os.setxattr, "link", "system.posix_acl_access", value,
                   follow_symlinks=False)
        self.fails(errno.EINVAL, os.setxattr, "file", "system.posix_acl_access", b"\2\0\0\0nonsense")

    def test_copies_keep_acls(self):
        write("file")
        setfacl("-m", f"u:{BERT}:rwx", "file")
        subprocess.run(["cp", "-a", "file", "copy"], check=True)
        self.assertEqual(getfacl("copy"), getfacl("file"))


class Attributes(Rules):
    def test_user_attributes_follow_the_mode(self):
        owned("file", ANNA, ANNA, 0o644)
        self.elsewhere(lambda: os.setxattr("file", "user.a", b"1"), uid=ANNA)
        self.elsewhere(lambda: self.assertEqual(os.getxattr("file", "user.a"), b"1"), uid=BERT)
        self.elsewhere(lambda: self.fails(errno.EACCES, os.setxattr, "file", "user.a", b"2"), uid=BERT)
        os.chmod("file", 0o600)
        self.elsewhere(lambda: self.fails(errno.EACCES, os.getxattr, "file", "user.a"), uid=BERT)

    def test_user_attributes_are_for_files_and_directories(self):
        os.mkfifo("pipe")
        os.symlink("pipe", "link")
        self.fails(errno.EPERM, os.setxattr, "pipe", "user.a", b"1")
        self.fails(errno.EPERM, os.setxattr, "link", "user.a", b"1", follow_symlinks=False)
        os.setxattr("pipe", "trusted.a", b"1")
        os.setxattr("link", "trusted.a", b"1", follow_symlinks=False)

    def test_trusted_attributes_are_roots(self):
        owned("file", ANNA, ANNA, 0o666)
        os.setxattr("file", "trusted.a", b"1")
        self.elsewhere(lambda: self.fails(errno.EPERM, os.setxattr, "file", "trusted.a", b"1"), uid=ANNA)
        self.elsewhere(lambda: self.fails(errno.ENODATA, os.getxattr, "file", "trusted.a"), uid=ANNA)
        self.elsewhere(lambda: self.assertEqual(os.listxattr("file"), []), uid=ANNA)
        self.assertEqual(os.listxattr("file"), ["trusted.a"])
