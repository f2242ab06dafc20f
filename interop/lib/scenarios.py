"""What programs of scenarios share: a demand that fails one, and the choice of those to run."""


class Failed(Exception):
    """What a scenario demanded does not hold."""


def demand(condition, message):
    if not condition:
        raise Failed(message)


def chosen(scenarios, only):
    """Those of `scenarios` that `only` names (NAME,...), all of them when it names none."""
    wanted = set(filter(None, only.split(",")))
    names = [f.__name__ for f in scenarios]
    if unknown := wanted.difference(names):
        raise SystemExit(f"no scenario {unknown}; there are {names}")
    return [f for f in scenarios if not wanted or f.__name__ in wanted]
