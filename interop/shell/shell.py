"""The same commands through Apache's zkCli and through `falconer shell`, each on a fresh server of its own.

Two ways, as people use them: all commands through standard input of one shell, and one program run for each command.
The outputs must be equal but for times, session ids, the version, and what exceptions.py names (the package's zkCli is
of 3.8.0). In the first way zxids must be equal too; in the second they can't be, as zkCli leaves its sessions open.
"""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import exceptions  # noqa: E402
import server  # noqa: E402

JARS = "/usr/share/java/"
# Without jline: lines from standard input come as they are, without prompts.
CLASS_PATH = ":".join(JARS + jar for jar in ("zookeeper.jar", "slf4j-nop.jar", "commons-cli.jar", "netty-buffer.jar", "netty-common.jar"))
ZKCLI = [os.environ.get("JAVA", "/usr/bin/java"), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8",
         "-Duser.timezone=UTC", "-cp", CLASS_PATH, "org.apache.zookeeper.ZooKeeperMain", "-server"]
PATIENCE = 60

# One shell, all lines. Blank lines and comments are for the reader.
SCRIPT = """
version
ls /
ls -s /
create /a
get /a
create /a again
create /a/b hello
get /a/b
get -s /a/b
create /a/empty ""
get /a/empty
create /a/quoted 'two words'
get /a/quoted
create /a/utf "Grüße, 世界"
get /a/utf
create /none/x y
create -s /a/seq- x
create -s /a/seq- x
create -e /a/eph mine
create -e -s /a/ephseq-
create -es /a/ephseq-
create /a/eph/child x
create -c /a/box
create -t 300000 /a/ttl x
create -s -t 300000 /a/ttlseq-
create -c -e /a/no
create -t 5 -e /a/no
create -t 5 -c /a/no
create -t 0 /a/no
create -t x /a/no
create
create a x
create /a/ x
create /a//b x
create /a/../b x
create /a/acl x world:anyone:cdrwa
create /a/acl2 x world:anyone:cdr,ip:127.0.0.1:cdrwa
create /a/acl3 x nonsense
create /a/acl4 x world:anyone:cdq
create /a/acl5 x auth::cdrwa
create -q /a/x
ls /a
ls -s /a/b
ls -R /a
ls -R /none
ls /none
ls
ls a
ls -z /a
ls -? /a
ls /a watch
create /a/new x
ls -w /a
create /a/new2 x
delete /a/new2
get -w /a/b
set /a/b one
get /a/b watch
set /a/b two
stat /a/b
stat -w /a/b
set -s /a/b three
set -v 3 /a/b four
set -v 3 /a/b five
set -v 99 /a/b six
set /a/b seven -v 4
set /a/b
set /none x
get
get /none
stat
stat /none
stat /a/b watch
stat -w /a/none
create /a/none now
delete /a/none
getAcl /a
getAcl -s /a
getAcl /a/acl2
getAcl /none
getAcl
setAcl /a/b world:anyone:r
set /a/b denied
getAcl /a/b
setAcl -s /a/b world:anyone:cdrwa
setAcl -s -v 1 /a/empty world:anyone:cdrwa
setAcl -s -v 0 /a/empty world:anyone:cdrwa,ip:127.0.0.1:rw
setAcl -R /a/box world:anyone:cdrw
setAcl /a/empty
setAcl /a/empty nonsense
setAcl /none world:anyone:r
addauth digest user:secret
addauth digest
create /a/mine x auth::cdrwa
getAcl /a/mine
whoami
getEphemerals
getEphemerals /a/ephseq-
getEphemerals /none
getEphemerals none
getAllChildrenNumber /a
getAllChildrenNumber /none
getAllChildrenNumber
setquota -n 2 /a
setquota -b 100 /a/box
setquota -n 100 /a
setquota -N 200 /a
setquota -B 1000000 /a
listquota /a
setquota -n 0 /a
setquota -b -1 /a
setquota -n x /a
setquota -n 5 -b 6 /a
setquota /a
setquota -n 5 /none
setquota -n 5 /zookeeper/quota/a
setquota -n 5 /a/b
create /q
create /q/r
create /q/r/s
setquota -n 10 /q/r
setquota -n 10 /q
listquota /q/r
delquota -n /a
listquota /a
delquota -b -n /a
delquota /a
listquota /a
delquota /a
delquota
listquota
delquota /q/r
deleteall /q
sync /a
sync
addWatch /a
addWatch -m persistent /a/b
addWatch -m nothing /a/b
addWatch
set /a/b seen
create /a/b/deep x
delete /a/b/deep
removewatches /a/b -c
removewatches /a/b -d
removewatches /a/b
removewatches /a
removewatches /a
removewatches /none
removewatches
get -w /a/b
removewatches /a/b -d
get -w /a/b
removewatches /a/b -c
removewatches /a/b -a
printwatches
printwatches off
get -w /a/b
set /a/b unseen
printwatches on
config
config -c
config -s
reconfig
reconfig -add server.5=localhost:1:2;3
reconfig -remove 3
reconfig -remove 3 -members server.1=h:1:2;3
reconfig -file /none -members server.1=h:1:2;3
reconfig -v zz -remove 3
delete /a
delete /none
delete
delete /a/empty 1
delete -v 7 /a/utf
delete -v 0 /a/utf
delete /
deleteall /a
deleteall /none
deleteall
deleteall -b 2
ls /
create /batch
create /batch/1
create /batch/2
create /batch/2/3
deleteall -b 1 /batch
deleteall -b x /batch
ls /
history
redo 1
redo 0
redo 9999
redo -1
nonsense
nonsense /with arguments
get "/unfinished
get -- /zookeeper
get -s -- /zookeeper/quota
close
ls /
get /
connect
ls /
close
"""

CHROOT = """
ls /
create /a x
create -s /a/s-
ls -R /
get -w /a
set /a y
addWatch /
create /a/b
get /outside
delete /
stat -w /later
create /later
getAllChildrenNumber /
config
deleteall /a
ls /
"""

# What the package's zkCli does not know: lines, and what 3.9.5 answers (its source, where no example is in its documentation).
NEW = [
    ("ls /", "Connecting to HOST:PORT\nWelcome to ZooKeeper!\nJLine support is disabled\n[zookeeper]\n"),
    ("create /new", "Created /new\n"),
    ("set -b /new aGVsbG8sIPCfmIAK", ""),
    ("get -b /new", "aGVsbG8sIPCfmIAK\n"),
    ("get -x /new", """\
         +-------------------------------------------------+
         |  0  1  2  3  4  5  6  7  8  9  a  b  c  d  e  f |
+--------+-------------------------------------------------+----------------+
|00000000| 68 65 6c 6c 6f 2c 20 f0 9f 98 80 0a             |hello, .....    |
+--------+-------------------------------------------------+----------------+
"""),
    ("get -b -x /zookeeper", "\n"),
    ("addWatch /new", ""),
    ("addWatch -m PERSISTENT /new", ""),
    ("removewatches /new -p", ""),
    ("removewatches /new -p", "KeeperErrorCode = No such watcher for /new\n"),
    ("removewatches /new -r", ""),
    ("removewatches /new -r", "KeeperErrorCode = No such watcher for /new\n"),
    ("setAcl -R /new world:anyone:cdrwa", ""),
    ("deleteall /new", ""),
]

# Keys, and what must appear after each of them.
TERMINAL = (
    ["", "cre\t", "/typed hello\r", "create /typed/child x\r", "get /ty\t", "\r", "get -w /typed\r", "set /typed news\r",
     "nonsense\r", "addauth digest user:secret\r", "create /other x\r", "ls -s /typ\t\t", "\r", "\x04"],
    ["[zk: HOST:PORT(CONNECT", "create ", "Created /typed", "Created /typed/child", "get /typed", "hello", "hello",
     "WatchedEvent state:SyncConnected type:NodeDataChanged path:/typed", "\x1b[31mCommand not found", "CONNECTED) ",
     "Created /other", "ls -s /typed", "\x1b[36mcZxid\x1b[0m = 0x", ""],
)
# The history of the first is there in the second; NO_COLOR is set.
TERMINAL_AGAIN = (["", "\x1b[A\x1b[A\x1b[A", "\r", "quit\r"],
                  ["CONNECT", "nonsense", "Command not found: Command not found nonsense", "WatchedEvent state:Closed"])

# One program run each: (arguments). zkCli takes a second for each, so only what has its own way there.
SINGLE = [
    ["create", "/one", "some words in one"],
    ["get", "/one"],
    ["get", "-s", "/one"],
    ["create", "/one", "again"],
    ["set", "-v", "5", "/one", "x"],
    ["ls", "/"],
    ["ls", "-R", "/"],
    ["get", "/none"],
    ["stat", "/one"],
    ["getAcl", "/one"],
    ["nonsense"],
    ["get"],
    ["delete", "/one"],
]


def main():
    command = server.command_from(sys.argv[1:])
    falconer = os.path.join(os.path.dirname(server.FALCONERD), "falconer")
    if "FALCONER" in os.environ:
        falconer = os.environ["FALCONER"]
    used, failures = {}, 0
    shells = {"zkCli": ZKCLI, "falconer": [falconer, "shell", "-s"]}

    def on_a_server(name, test):
        flags = ["-Dzookeeper.extendedTypesEnabled=true", "-Dznode.container.checkIntervalMs=600000"]
        s = server.Server(command, {"reconfigEnabled": "false"}, flags, f"shell-{name}")
        try:
            s.start()
            return test(shells[name], s)
        finally:
            s.remove()

    for test in (script, chroot, single):
        failures += compare(test.__name__, on_a_server("zkCli", test), on_a_server("falconer", test), used)
    failures += compare("new", NEW, on_a_server("falconer", new)[:len(NEW)], used, "wanted")
    failures += on_a_server("falconer", terminal)
    failures += on_a_server("falconer", as_json)
    failures += on_a_server("falconer", reconnect)
    failures += unreachable(shells["falconer"])
    for name, times in sorted(used.items()):
        print(f"exception {name}: used {times} times")
    print("PASS shell" if failures == 0 else f"FAIL shell: {failures} differences")
    return 1 if failures else 0


def script(shell, s, lines=None, chroot=""):
    """All lines through one shell."""
    lines = lines or [line for line in SCRIPT.splitlines() if line.strip()]
    # An unknown command after each line tells where its output ends, also without a session.
    status, text = feed([*shell, f"{s.host}:{s.port}{chroot}"], lines)
    # An event comes when it comes: the order among events counts, not their place between answers.
    text, events = without_events(text)
    parts, at = [], 0
    for i, line in enumerate(lines):
        end = re.compile(rf"^Command not found: Command not found MARK-{i}\n", re.M).search(text, at)
        if not end:
            parts.append((line, text[at:]))
            break
        piece = text[at:end.start()]
        # The list of all commands, which every unknown one brings, that of the mark included.
        parts.append((line, normal(piece[:piece.rindex("ZooKeeper -server host:port")], s)))
        at = end.end()
    else:
        parts.append(("(the end)", text[at:]))
    return parts + [("(the exit status)", f"{status}\n"), ("(events)", events)]


def feed(command, lines):
    """The exit status and what is shown for these lines, each with its mark."""
    shell = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             env=dict(os.environ, TZ="UTC"))
    shown = []
    reader = threading.Thread(target=lambda: shown.extend(iter(lambda: shell.stdout.read1(65536), b"")))
    reader.start()
    patience = threading.Timer(PATIENCE, shell.kill)
    patience.start()
    try:
        for i, line in enumerate(lines):
            if re.match("printwatches o", line):
                # zkCli shows an event on another thread than it reads commands: what came before is to be shown, or not, first.
                while f"MARK-{i - 1}\n".encode() not in b"".join(shown) and shell.poll() is None:
                    time.sleep(0.02)
                time.sleep(0.3)
            shell.stdin.write(f"{line}\nMARK-{i}\n".encode())
            shell.stdin.flush()
        shell.stdin.close()
    except BrokenPipeError:
        pass
    status = shell.wait()
    patience.cancel()
    reader.join()
    return status, b"".join(shown).decode()


def chroot(shell, s):
    """Below a chroot, whose root is made first."""
    made = script(shell, s, ["create /c", "create /c/d", "create /outside x"])
    return made + script(shell, s, [line for line in CHROOT.splitlines() if line], "/c/d")


def new(shell, s):
    """The lines of NEW through one shell of `falconer`."""
    return script(shell, s, [line for line, _ in NEW])


def single(shell, s):
    parts = []
    for words in SINGLE:
        out = subprocess.run([*shell, f"{s.host}:{s.port}", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, timeout=PATIENCE, env=dict(os.environ, TZ="UTC"))
        shown = f"stdout:\n{out.stdout.decode()}stderr:\n{out.stderr.decode()}exit {out.returncode}\n"
        shown, events = without_events(shown)
        # A command that asks the server nothing may end before the event of the connection.
        shown = normal(shown, s) + (events if words not in (["nonsense"], ["get"]) else "")
        parts.append((" ".join(words), re.sub(r"((?:[cmp]Zxid) = )0x[0-9a-f]+", r"\1ZXID", shown)))
    return parts


def terminal(shell, s):
    """A person at a terminal: prompt, completion, history, an event above the line that is being typed, colours."""
    folder = tempfile.mkdtemp(prefix="falconer-shell-")
    history = os.path.join(folder, "deep", "history")
    missing = 0
    try:
        for keys, wanted in (TERMINAL, TERMINAL_AGAIN):
            pid, tty = pty.fork()
            if pid == 0:
                os.environ.update(FALCONER_HISTORY=history, TERM="xterm", TZ="UTC", NO_COLOR="" if wanted is TERMINAL[1] else "1")
                os.execvp(shell[0], [*shell, f"{s.host}:{s.port}"])
            commands = 0
            for key, answer in zip(keys, wanted):
                answer = answer.replace("HOST:PORT", f"{s.host}:{s.port}")
                os.write(tty, key.encode())
                fresh = read_until(tty, answer)
                if key.endswith("\r") and key != "quit\r":
                    # The next keys wait for the next prompt, as a person does.
                    commands += 1
                    prompt = f") {commands}] "
                    fresh += "" if prompt in fresh else read_until(tty, prompt)
                if answer not in fresh:
                    missing += 1
                    print(f"DIFFERENCE (terminal) after {key!r}: no {answer!r} in {fresh!r}")
                    break
            # It writes its history at its end; a terminal that is gone would end it before.
            read_until(tty, "no such text")
            os.close(tty)
            os.waitpid(pid, 0)
        lines, mode = "", None
        if os.path.exists(history):
            with open(history) as file:
                lines, mode = file.read(), os.stat(history).st_mode & 0o777
        for what, holds in (("the history keeps commands", "create /typed" in lines), ("but no credentials", "secret" not in lines),
                            ("and is its owner's", mode == 0o600)):
            if not holds:
                missing += 1
                print(f"DIFFERENCE (terminal): {what}: not so: {lines!r}")
    finally:
        shutil.rmtree(folder)
    print(f"terminal: {len(TERMINAL[0]) + len(TERMINAL_AGAIN[0])} keys sent, {missing} answers missing")
    return missing


def read_until(tty, wanted):
    """What the terminal shows until `wanted` is there, or ten seconds have passed."""
    seen, deadline = "", time.monotonic() + 10
    while wanted not in seen and time.monotonic() < deadline:
        if select.select([tty], [], [], 0.1)[0]:
            try:
                fresh = os.read(tty, 65536)
            except OSError:  # The program has ended.
                break
            seen += fresh.decode(errors="replace")
    return seen


def as_json(shell, s):
    """Every command answers one JSON object a line, errors included, and events are objects too."""
    lines = [line for line in SCRIPT.splitlines() if line.strip()]
    out = subprocess.run([*shell, f"{s.host}:{s.port}", "--json"], input="\n".join(lines).encode(), stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, timeout=PATIENCE)
    wrong, answers = [], []
    for line in out.stdout.decode().splitlines():
        try:
            answer = json.loads(line)
        except ValueError as error:
            wrong.append(f"no JSON: {line!r}: {error}")
            continue
        if "event" not in answer:
            answers.append(answer)
    if [a["command"] for a in answers] != [line.split()[0] for line in lines]:
        wrong.append(f"{len(answers)} answers to {len(lines)} commands: {answers[-1:]}")
    first = {}
    for line, answer in zip(lines, answers):
        first.setdefault(line, answer)
    for line, field, value in (
            ("get /a", "data", None), ("get /a/b", "data", "hello"), ("ls /", "children", ["zookeeper"]),
            ("create -s /a/seq- x", "path", "/a/seq-0000000004"), ("getAllChildrenNumber /a", "number", 17),
            ("whoami", "identities", [{"scheme": "ip", "user": "127.0.0.1"}, {"scheme": "digest", "user": "user"},
                                       {"scheme": "digest", "user": ""}])):
        if first.get(line, {}).get(field, "?") != value:
            wrong.append(f"{line}: {field} is not {value!r}: {first.get(line)}")
    if first["get /none"]["error"]["name"] != "NoNode" or first["get -s /a/b"]["stat"]["dataLength"] != 5:
        wrong.append(f"error or stat: {first['get /none']} {first['get -s /a/b']}")
    if out.stderr:
        wrong.append(f"standard error: {out.stderr!r}")
    for what in wrong:
        print(f"DIFFERENCE (json): {what}")
    print(f"json: {len(answers)} answers read, {len(wrong)} wrong")
    return len(wrong)


def reconnect(shell, s):
    """A server that is killed and comes back: the session goes on, with its ephemerals, credentials and watches."""
    process = subprocess.Popen([*shell, f"{s.host}:{s.port}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    os.set_blocking(process.stdout.fileno(), False)
    seen, missing = "", 0

    def expect(lines, wanted):
        nonlocal seen, missing
        process.stdin.write(lines.encode())
        process.stdin.flush()
        deadline, fresh = time.monotonic() + 30, ""
        while not all(text in fresh for text in wanted) and time.monotonic() < deadline:
            select.select([process.stdout], [], [], 0.1)
            fresh += (process.stdout.read() or b"").decode()
        seen += fresh
        for text in wanted:
            if text not in fresh:
                missing += 1
                print(f"DIFFERENCE (reconnect): no {text!r} in {fresh!r}")

    try:
        expect("addauth digest user:secret\ncreate /mine x auth::cdrwa\ncreate -e /mine/e\nget -w /mine\naddWatch /mine\n"
               "printwatches\n", ["Created /mine/e", "\nx\n", "printwatches is on"])
        s.kill()
        expect("", ["state:Disconnected type:None"])
        s.start()
        expect("set /mine y\nget /mine\ngetEphemerals\n",
               ["state:SyncConnected type:None", "type:NodeDataChanged path:/mine", "\ny\n", "[/mine/e]"])
        expect("create /mine/f\n", ["type:NodeCreated path:/mine/f"])
        process.stdin.close()
        if process.wait(30) != 0:
            missing += 1
            print(f"DIFFERENCE (reconnect): exit {process.returncode}")
    finally:
        process.kill()
        process.stdout.close()
    print(f"reconnect: {missing} answers missing")
    return missing


def unreachable(shell):
    """Without a server the message says where and what to do, at once."""
    address = f"127.0.0.1:{server.free_port()}"
    out = subprocess.run([*shell, address, "get", "/x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE)
    text = out.stderr.decode()
    good = out.returncode == 1 and "KeeperErrorCode = ConnectionLoss for /x" in text and "-s HOST:PORT" in text and address in text
    if not good:
        print(f"DIFFERENCE (unreachable): {out}")
    return 0 if good else 1


def without_events(text):
    """The text without events, and the events."""
    events = "".join(re.findall(r"^WatchedEvent .*\n", text, re.M))
    return re.sub(r"^\n(?:WATCHER::|WatchedEvent .*)\n", "", text, flags=re.M), events


def normal(text, s):
    """Without what differs from run to run."""
    text = text.replace(f"{s.host}:{s.port}", "HOST:PORT")
    text = re.sub(r"^([cm]time = )\w{3} \w{3} \d\d \d\d:\d\d:\d\d UTC \d{4}$", r"\1TIME", text, flags=re.M)
    text = re.sub(r"^(ephemeralOwner = )0x[0-9a-f]{2,}$", r"\1SESSION", text, flags=re.M)
    return re.sub(r"^(ZooKeeper CLI version: ).*$", r"\1VERSION", text, flags=re.M)


def compare(name, left, right, used, against="zkCli"):
    failures = 0
    for (command, old), (_, new) in zip(left, right):
        for exception in exceptions.ALL:
            if old != new:
                fixed = exception(command, old, new)
                if fixed != old:
                    used[exception.__name__] = used.get(exception.__name__, 0) + 1
                old = fixed
        if old != new:
            failures += 1
            print(f"DIFFERENCE ({name}) in: {command}\n  {against}: {old!r}\n  falconer: {new!r}")
    if len(left) != len(right):
        failures += 1
        print(f"DIFFERENCE ({name}): {against} ended after {len(left)} answers, falconer after {len(right)}")
    print(f"{name}: {len(left)} answers compared, {failures} differences")
    return failures


if __name__ == "__main__":
    sys.exit(main())
