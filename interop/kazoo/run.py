"""Runs kazoo's own test suite against a server command, with kazoo's own harness: run.py PYTHON [server-command...]

PYTHON has kazoo and its test requirements installed. Deselects what `deselected.txt` names, and fails when a test fails,
is skipped without being named there, or when the file names a test that kazoo doesn't have.
"""

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import server  # noqa: E402

# What the server answers as; kazoo picks its tests and settings by it.
VERSION = "3.8.0"


def node_id(test):
    """kazoo.tests.test_x.Class.test -> test_x.py::Class::test, as pytest names it below the package's folder."""
    module, case, name = test.removeprefix("kazoo.tests.").rsplit(".", 2)
    return f"{module.replace('.', '/')}.py::{case}::{name}"


def main():
    python, *words = sys.argv[1:]
    command = server.command_from(words)
    with open(os.path.join(HERE, "deselected.txt")) as file:
        named = dict(re.split(r"\s*\|\s*", line.strip(), maxsplit=1) for line in file if not line.startswith("#"))
    tests = subprocess.run([python, "-c", "import kazoo.tests, os; print(os.path.dirname(kazoo.tests.__file__))"],
                           capture_output=True, text=True, check=True).stdout.strip()
    environment = dict(os.environ, PATH=HERE + os.pathsep + os.environ["PATH"], SERVER_COMMAND=" ".join(command),
                       ZOOKEEPER_CLASSPATH="unused", ZOOKEEPER_VERSION=VERSION, ZOOKEEPER_CLUSTER_SIZE="1",
                       ZOOKEEPER_PORT_OFFSET=str(server.free_port()))
    with tempfile.TemporaryDirectory(prefix="falconer-kazoo-") as work:
        report = os.path.join(work, "report.xml")
        output = os.path.join(work, "output.txt")
        arguments = [python, "-m", "pytest", "--rootdir", tests, "-p", "no:cacheprovider", "-q", "--timeout", "120",
                     "--tb", "short", f"--junitxml={report}"]
        # Collected first, so that a name of a test that is gone is noticed.
        collected = subprocess.run([python, "-m", "pytest", "--rootdir", tests, "-p", "no:cacheprovider", "-q",
                                    "--collect-only", tests], capture_output=True, text=True, env=environment, cwd=work).stdout
        gone = [test for test in named if node_id(test) not in collected]
        for test in named:
            arguments += ["--deselect", node_id(test)]
        with open(output, "w") as out:
            status = subprocess.run(arguments + [tests], stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=work).returncode
        counts = {"passed": 0, "failed": 0, "skipped": 0}
        problems = [f"deselected.txt names {test}, which kazoo does not have" for test in gone]
        if os.path.exists(report):
            for case in xml.parse(report).iter("testcase"):
                name = f"{case.get('classname')}.{case.get('name')}"
                bad = case.find("failure") if case.find("failure") is not None else case.find("error")
                if bad is not None:
                    counts["failed"] += 1
                    problems.append(f"{name}: {(bad.get('message') or '').splitlines()[0] if bad.get('message') else 'error'}")
                elif case.find("skipped") is not None:
                    counts["skipped"] += 1
                    problems.append(f"{name} is skipped and not named: {case.find('skipped').get('message')}")
                else:
                    counts["passed"] += 1
        else:
            problems.append("no report from pytest")
        if status != 0 and not problems:
            problems.append(f"pytest ended with {status}")
        if problems:
            with open(output, errors="replace") as file:
                text = [line for line in file if not line.startswith(("Connection dropped", "Transition", "Connecting"))]
            print("".join(text[-80:]))
    for problem in problems:
        print(f"  {problem}")
    print(f"kazoo: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped, "
          f"{len(named)} deselected (interop/kazoo/deselected.txt)")
    print("FAIL kazoo" if problems or counts["passed"] == 0 else "PASS kazoo")
    return 1 if problems or counts["passed"] == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
