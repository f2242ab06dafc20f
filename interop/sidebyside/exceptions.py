"""The one table of differences that a side-by-side run accepts: left is the Apache server at hand (3.8.0), right the
server under test, which behaves as 3.9.5.

Each row says exactly which pair of answers it accepts, never "anything goes here". A run of Apache against itself must
not use a single row; a run's summary says how often each was used. The right-hand behaviour of each row is also checked
for itself, without Apache, in `expect.py`.

A row's function gets the request, the left and right reply (normalised dicts, zxids already in the right side's
numbering) and the `Context`; it returns whether it accepts the pair.
"""

import wire

WRITES = ("create", "create2", "createContainer", "createTTL", "delete", "setData", "setACL", "reconfig", "check")


def results_of(reply):
    return reply["body"].get("results") if reply["err"] == 0 else None


def event_zxid(request, left, right, context):
    """Events carry the change's zxid since 3.9.0, before that -1."""
    same = all(left[key] == right[key] for key in ("event", "state", "path"))
    first, last = context.zxids_of_step
    return same and left["zxid"] == -1 and first < right["zxid"] <= last


def exists_needs_read(request, left, right, context):
    """exists asks for READ since 3.9.2."""
    request = request["of"] if request["op"] == "raw" else request
    return (request["op"] == "exists" and not request["watch"] and left["err"] == wire.OK and right["err"] == wire.NO_AUTH
            and right["body"] == {} and left["zxid"] == right["zxid"])


def undecodable_write_zxid(request, left, right, context):
    """A single write whose body can't be decoded takes no zxid since 3.9.0."""
    if request["op"] != "raw" or request["of"]["op"] not in WRITES:
        return False
    if left["err"] != wire.MARSHALLING_ERROR or right["err"] != wire.MARSHALLING_ERROR:
        return False
    if left["zxid"] != right["zxid"] + 1:
        return False
    context.left_takes_extra_zxid(left["raw_zxid"])
    return True


def check_watches_finds_more(request, left, right, context):
    """Before 3.9.0 checkWatches also found other clients' watches and recursive ones of ancestors, and kinds mixed; looking
    for the ancestors of what is no path failed (-5)."""
    no_path = not (request.get("path") or "").startswith("/") or len(request["path"]) > 1 and request["path"].endswith("/")
    return (request["op"] == "checkWatches" and request["type"] in (1, 2, 3)
            and (left["err"] == wire.OK or no_path and left["err"] == wire.MARSHALLING_ERROR)
            and right["err"] == wire.NO_WATCHER and left["zxid"] == right["zxid"])


def check_watches_new_types(request, left, right, context):
    """Watch types 4 (persistent) and 5 (recursive) exist since 3.9.0."""
    return (request["op"] == "checkWatches" and request["type"] in (4, 5) and left["err"] == wire.MARSHALLING_ERROR
            and right["err"] in (wire.OK, wire.NO_WATCHER) and left["zxid"] == right["zxid"])


def create2_in_multi(request, left, right, context):
    """create2 inside a multi is answered with its Stat since 3.8.2, before that as a plain create."""
    a, b = results_of(left), results_of(right)
    if request["op"] != "multi" or a is None or b is None or len(a) != len(b) or left["zxid"] != right["zxid"]:
        return False
    for one, two in zip(a, b):
        if one == two:
            continue
        stat = two["body"].get("stat")
        if (one["type"], two["type"]) != (wire.CREATE, wire.CREATE2) or stat is None:
            return False
        if one["err"] != 0 or two["err"] != 0 or one["body"]["path"] != two["body"]["path"]:
            return False
        # What a just created node must look like; later members of the same multi may have added children to it.
        if not stat["czxid"] == stat["mzxid"] == right["zxid"] or stat["aversion"] != 0:
            return False
    return True


def malformed_member_fails_multi(request, left, right, context):
    """Bad flags or no ACL list inside a multi fail the whole request as undecodable since 3.9.0, before that the member."""
    if request["op"] != "multi" or right["err"] != wire.MARSHALLING_ERROR or left["zxid"] != right["zxid"]:
        return False
    malformed = any(sub["op"].startswith("create") and (sub["acl"] is None or not 0 <= sub["flags"] <= 6)
                    for sub in request["ops"])
    results = results_of(left)
    return malformed and results is not None and any(r["err"] not in (0, wire.RUNTIME_INCONSISTENCY) for r in results)


def version_of_config(request, left, right, context):
    """/zookeeper/config has version -1 in 3.9.5; on a standalone 3.8.0 it counts from 0."""
    request = request["of"] if request["op"] == "raw" else request
    if request.get("path") != "/zookeeper/config" or left["err"] != wire.OK or right["err"] != wire.OK:
        return False
    a, b = left["body"].get("stat"), right["body"].get("stat")
    same_rest = left["body"].keys() == right["body"].keys() and all(
        left["body"][key] == right["body"][key] for key in left["body"] if key != "stat")
    return (a is not None and b is not None and same_rest and left["zxid"] == right["zxid"] and a["version"] >= 0
            and dict(a, version=-1) == b)


TABLE = [event_zxid, exists_needs_read, undecodable_write_zxid, check_watches_finds_more, check_watches_new_types,
         create2_in_multi, malformed_member_fails_multi, version_of_config]


def top_level_check(left_items, right_items):
    """`check` outside a multi: 3.8.0 executes it without an answer, later versions refuse it (-6) and close.

    Looks at the whole step, because the two sides don't even send the same number of frames."""
    left = [item for item in left_items if item.get("op") != "check"]
    return (len(left) == 1 and left[0].get("op") == "ping" and len(right_items) == 2
            and right_items[0].get("err") == wire.UNIMPLEMENTED and right_items[0].get("zxid") == -1
            and right_items[1] == {"end": "closed"})
