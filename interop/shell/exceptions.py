"""What zkCli of 3.8.0 (the Debian package) prints otherwise than zkCli of 3.9.5, which `falconer shell` follows.

Each function gets the command and what both printed, and returns what the old one would have printed in 3.9.5; or
the text unchanged where it has nothing to say. The summary says how often each was used.
"""

import re


def event_names_its_zxid(command, old, new):
    """3.9 ends the line of an event with the zxid of the change (ZOOKEEPER-4655)."""
    if re.search(r"^WatchedEvent .* zxid: -?\d+$", new, re.M):
        zxids = iter(re.findall(r" zxid: -?\d+$", new, re.M))
        return re.sub(r"^(WatchedEvent .*)$", lambda m: m[1] + next(zxids, ""), old, flags=re.M)
    return old


def usage_names_what_is_new(command, old, new):
    """3.9 knows get -b and -x, set -b, and explains the options of get and set in their usage."""
    for usage in ("get [-s] [-w] path\n", "set [-s] [-v version] path data\n"):
        word = usage.split()[0]
        explained = re.search(rf"^{word} .*\n(?: -.*\n)+\n", new, re.M)
        if usage in old and explained:
            return old.replace(usage, explained[0])
    return old


def options_that_are_new(command, old, new):
    """removewatches -p and -r are options of 3.9 alone, as are get -b, get -x and set -b, which NEW in shell.py covers."""
    match = re.fullmatch(r"org\.apache\.commons\.cli\.UnrecognizedOptionException: Unrecognized option: -([pr])\n", old)
    known = {"removewatches": "pr"}
    if match and match[1] in known.get(command.split()[0], ""):
        return new
    return old


def list_of_commands(command, old, new):
    """The list of all commands has the usage of get and set."""
    if "ZooKeeper -server host:port" in old:
        lines = dict(re.findall(r"^\t(\S+)( .*)$", new, re.M))
        return re.sub(r"^\t(get|set) .*$", lambda m: f"\t{m[1]}{lines.get(m[1], '')}", old, flags=re.M)
    return old


ALL = [event_names_its_zxid, usage_names_what_is_new, options_that_are_new, list_of_commands]
