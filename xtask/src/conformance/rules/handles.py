"""File handles, as NFS servers keep them: taken before a remount, and opened after it.

    handles.py take FILE     makes files in the current folder, writes their handles to FILE
    handles.py open FILE     opens each of them again, and compares
"""

import ctypes
import errno
import json
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
HANDLE_BYTES_MAX = 128


class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("handle", ctypes.c_ubyte * HANDLE_BYTES_MAX)]


def checked(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def name_to_handle(path):
    handle, mount = Handle(bytes=HANDLE_BYTES_MAX), ctypes.c_int()
    checked(libc.name_to_handle_at(-100, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0))
    return handle.type, bytes(handle.handle[:handle.bytes]).hex()


def open_handle(kind, text, flags):
    raw = bytes.fromhex(text)
    handle = Handle(bytes=len(raw), type=kind)
    ctypes.memmove(handle.handle, raw, len(raw))
    root = os.open(".", os.O_RDONLY)
    try:
        return checked(libc.open_by_handle_at(root, ctypes.byref(handle), flags))
    finally:
        os.close(root)


PATHS = [".", "directory", "directory/deep", "directory/deep/file", "file"]


def take(output):
    os.makedirs("directory/deep")
    for path in ["file", "directory/deep/file", "gone"]:
        with open(path, "w") as file:
            file.write(path)
    os.symlink("file", "link")
    taken = {path: (*name_to_handle(path), os.lstat(path).st_ino) for path in [*PATHS, "link", "gone"]}
    # It still opens what has got another name, and not what has gone.
    os.rename("file", "renamed")
    os.unlink("gone")
    with open(output, "w") as file:
        json.dump(taken, file)


def open_again(source):
    with open(source) as file:
        taken = json.load(file)
    for path in PATHS:
        kind, text, number = taken[path]
        is_file = path.endswith("file")
        opened = open_handle(kind, text, os.O_RDONLY)
        assert os.fstat(opened).st_ino == number, path
        if is_file:
            assert os.read(opened, 100) == path.encode(), path
        else:
            # Also upwards, as a server goes to find the path of what it exports.
            above = os.stat("..", dir_fd=opened).st_ino
            expected = os.stat(os.path.dirname(path) or ".").st_ino if path != "." else above
            assert above == expected, path
        os.close(opened)
    kind, text, number = taken["link"]
    opened = open_handle(kind, text, os.O_PATH | os.O_NOFOLLOW)
    assert os.fstat(opened).st_ino == number
    os.close(opened)
    try:
        open_handle(*taken["gone"][:2], os.O_RDONLY)
    except OSError as error:
        assert error.errno == errno.ESTALE, error
    else:
        raise AssertionError("what has gone is opened")
    assert {path: [*name_to_handle(path), os.lstat(path).st_ino] for path in PATHS[:-1]} == \
        {path: taken[path] for path in PATHS[:-1]}, "handles and numbers stay"


if __name__ == "__main__":
    {"take": take, "open": open_again}[sys.argv[1]](sys.argv[2])
