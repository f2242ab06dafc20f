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
    """create2 inside a multi is answered with its Stat since 3.8.2, before that as a plain create; so is createContainer with
    the flags of another kind."""
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


def spoiler(ops):
    """What makes 3.9.5 refuse a multi as it decodes it: "flags", "acl" or None. Bad flags and flags of a TTL in a create
    without one are an IOException, a null ACL is a NullPointerException, which is met before the flags of a TTL."""
    kinds = set()
    for sub in ops:
        if sub["op"] in ("create", "create2", "createContainer"):
            if not 0 <= sub["flags"] <= 6:
                return "flags"
            if sub["acl"] is None:
                return "acl"
            if sub["flags"] in (5, 6):
                return "flags"
        kinds.add({"getData": "read", "getChildren": "read", "setACL": "none", "sync": "none"}.get(sub["op"], "write"))
        if "none" in kinds or len(kinds) > 1:
            return None  # no version decodes this
    return None


def malformed_member_fails_multi(request, left, right, context):
    """A create in a multi with bad flags, the flags of a TTL or no ACL list fails the whole request as undecodable since
    3.9.0; before that the member failed if it was reached. Only the one without an ACL list takes no zxid."""
    request = request["of"] if request["op"] == "raw" else request
    if request["op"] != "multi" or right["err"] != wire.MARSHALLING_ERROR or right["body"] != {}:
        return False
    spoilt_by = spoiler(request["ops"])
    results = results_of(left)
    failed = results is not None and any(r["err"] not in (0, wire.RUNTIME_INCONSISTENCY) for r in results)
    if spoilt_by is None or not failed and left["err"] != wire.MARSHALLING_ERROR:
        return False
    if spoilt_by == "flags":
        return left["zxid"] == right["zxid"]
    if left["zxid"] != right["zxid"] + 1:
        return False
    context.left_takes_extra_zxid(left["raw_zxid"])
    return True


TABLE = [event_zxid, exists_needs_read, undecodable_write_zxid, check_watches_finds_more, check_watches_new_types,
         create2_in_multi, malformed_member_fails_multi]


def top_level_check(left_items, right_items):
    """`check` outside a multi: 3.8.0 executes it without an answer, later versions refuse it (-6) and close.

    Looks at the whole step, because the two sides don't even send the same number of frames."""
    left = [item for item in left_items if item.get("op") != "check"]
    return (len(left) == 1 and left[0].get("op") == "ping" and len(right_items) == 2
            and right_items[0].get("err") == wire.UNIMPLEMENTED and right_items[0].get("zxid") == -1
            and right_items[1] == {"end": "closed"})
