"""What operators install, tried out: the scripts named as ZooKeeper's, the start script of the image, the unit of systemd,
the example for Kubernetes, completions and manual pages.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import server  # noqa: E402
import wire  # noqa: E402

PACKAGING = os.path.join(server.ROOT, "packaging")
SCRIPTS = os.path.join(PACKAGING, "bin")
failures = 0


def check(what, holds, seen=""):
    global failures
    if not holds:
        failures += 1
        print(f"FAILED packaging: {what}\n    {str(seen).strip()}")


def run(words, env=None, **rest):
    """Runs a program; its exit status, standard output and standard error."""
    done = subprocess.run(words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, **rest)
    return done.returncode, done.stdout, done.stderr


def scripts(folder, programs):
    port = server.free_port()
    conf, data, logs = (os.path.join(folder, name) for name in ("conf", "data", "logs"))
    os.makedirs(conf)
    with open(os.path.join(conf, "zoo.cfg"), "w") as file:
        file.write(f"# a comment with clientPort=1\ntickTime=2000\ndataDir = {data}\nclientPort={port}\n"
                   "clientPortAddress=127.0.0.1\nadmin.enableServer=false\n4lw.commands.whitelist=srvr, conf\n")
    # No export, as ZooKeeper's own examples write it.
    with open(os.path.join(conf, "java.env"), "w") as file:
        file.write('SERVER_JVMFLAGS="-Xmx1g -Djute.maxbuffer=5000"\n')
    env = dict(os.environ, FALCONER_BIN=programs, ZOOCFGDIR=conf, ZOO_LOG_DIR=logs)

    def script(name, *words, **more):
        return run([os.path.join(SCRIPTS, name), *words], dict(env, **more))

    def cli(*words):
        return script("zkCli.sh", "-server", f"127.0.0.1:{port}", "-timeout", "5000", *words)

    pid_file = os.path.join(data, "zookeeper_server.pid")
    code, out, err = script("zkServer.sh", "status")
    check("status without a server", code == 1 and "Error contacting service. It is probably not running." in out, out + err)
    code, out, err = script("zkServer.sh", "stop")
    check("stop without a server", code == 0 and f"no zookeeper to stop (could not find file {pid_file})" in out, out)
    code, out, err = script("zkServer.sh", "start")
    check("start", (code, out) == (0, "Starting zookeeper ... STARTED\n") and f"Using config: {conf}/zoo.cfg\n" in err, out + err)
    try:
        with open(pid_file) as file:
            pid = int(file.read())
        check("the pid file names the server", os.path.samefile(f"/proc/{pid}/exe", os.path.join(programs, "falconerd")))
        code, out, err = script("zkServer.sh", "start")
        check("start twice", code == 1 and out == f"Starting zookeeper ... already running as process {pid}.\n", out + err)
        code, out, err = script("zkServer.sh", "status")
        wanted = f"Client port found: {port}. Client address: 127.0.0.1. Client SSL: false.\nMode: standalone\n"
        check("status", (code, out) == (0, wanted), out + err)
        code, out, err = run([os.path.join(SCRIPTS, "zkServer.sh"), "--config", conf, "status"],
                             {k: v for k, v in env.items() if k != "ZOOCFGDIR"})
        check("--config", (code, out) == (0, wanted), out + err)

        code, out, err = cli("create", "/made", "by zkCli")
        check("zkCli.sh create", code == 0 and "Created /made\n" in err, out + err)
        code, out, err = cli("-waitforconnection", "get", "-s", "/made")
        check("zkCli.sh get", code == 0 and "\nby zkCli\ncZxid = 0x" in out and out.startswith("Connecting to 127.0.0.1"), out + err)
        code, out, err = cli("get", "/none")
        check("zkCli.sh with an error", code == 1 and err == "Node does not exist: /none\n", out + err)
        code, out, err = script("zkCli.sh", "-server")
        check("zkCli.sh without its argument", code == 1 and err == "Error: no argument found for option -server\n", err)
        code, out, err = cli("create", "/big", "x" * 6000)
        check("java.env sets jute.maxbuffer", code == 1 and "ConnectionLoss" in err, out + err)

        code, out, err = script("zkServer.sh", "restart")
        check("restart", code == 0 and out == "Stopping zookeeper ... STOPPED\nStarting zookeeper ... STARTED\n", out + err)
        code, out, err = cli("get", "/made")
        check("the data is there after a restart", code == 0 and out.endswith("by zkCli\n"), out + err)
        code, out, err = script("zkServer-initialize.sh", "--force")
        check("initialize refuses a directory in use", code == 1 and "stop it first" in out, out + err)
    finally:
        code, out, err = script("zkServer.sh", "stop")
    check("stop", (code, out) == (0, "Stopping zookeeper ... STOPPED\n") and not os.path.exists(pid_file), out + err)
    check("the server is gone", not os.path.exists(f"/proc/{pid}"))

    code, out, err = script("zkServer.sh", "version")
    check("version", code == 0 and out.startswith("Falconer for Apache ZooKeeper, version 3.9.5-falconer-"), out + err)
    code, out, err = script("zkServer.sh", "print-cmd")
    check("print-cmd", out.startswith(f'"{programs}/falconerd" "{conf}/zoo.cfg" > "{logs}/zookeeper-'), out)
    code, out, err = script("zkServer.sh", "nothing")
    check("usage", "{start|start-foreground|stop|version|restart|status|print-cmd}" in err, err)
    with open(os.path.join(conf, "bad.cfg"), "w") as file:
        file.write(f"dataDir={data}\nclientPort=many\n")
    code, out, err = script("zkServer.sh", "start", "bad.cfg")
    check("a bad configuration", code == 1 and out == "Starting zookeeper ... FAILED TO START\n" and "clientPort" in err, out + err)

    code, out, err = script("zkCleanup.sh", "-n", "3")
    check("zkCleanup.sh", code == 0 and out.startswith("Nothing to do:"), out + err)
    code, out, err = script("zkCleanup.sh", "-n", "2")
    check("zkCleanup.sh -n 2", code == 2, out + err)
    with open(os.path.join(conf, "keep.cfg"), "w") as file:
        file.write(f"dataDir={data}\nautopurge.purgeInterval=0\n")
    code, out, err = script("zkCleanup.sh", ZOOCFG="keep.cfg")
    check("zkCleanup.sh where nothing is removed", code == 1 and "autopurge.purgeInterval=0" in err, out + err)

    code, out, err = script("zkTxnLogToolkit.sh", "-d", data)
    check("zkTxnLogToolkit.sh", code == 0 and "create /made" in out, out + err)
    code, out, err = script("zkTxnLogToolkit.sh", "-r", data)
    check("zkTxnLogToolkit.sh -r", code == 1 and "not available" in err, err)
    apache = os.path.join(server.ROOT, "tools", "tests", "data", "zk-3.8.0", "version-2")
    left, right = (os.path.join(apache, name) for name in ("snapshot.106", "snapshot.27a"))
    code, out, err = script("zkSnapShotToolkit.sh", "-d", left)
    check("zkSnapShotToolkit.sh", code == 0 and "\n/a " in out, out[:300] + err)
    code, out, err = script("zkSnapShotToolkit.sh")
    check("zkSnapShotToolkit.sh without a file", code == 2 and "USAGE" in err, err)
    code, out, err = script("zkSnapshotComparer.sh", "-l", left, "-r", right, "-b", "2", "-n", "1")
    check("zkSnapshotComparer.sh", code == 0 and "\n- /a/empty" in out, out[:300] + err)
    code, out, err = script("zkSnapshotRecursiveSummaryToolkit.sh", left, "/", "2")
    check("zkSnapshotRecursiveSummaryToolkit.sh", code == 0 and "/a" in out, out[:300] + err)

    code, out, err = script("zkServer-initialize.sh")
    check("initialize refuses data", code == 1 and "already exists" in out, out + err)
    code, out, err = script("zkServer-initialize.sh", "--force", "--myid=7")
    with open(os.path.join(data, "myid")) as file:
        check("initialize --force", code == 0 and file.read() == "7\n" and sorted(os.listdir(data)) == ["falconer.lock", "initialize", "myid"],
              f"{out} {os.listdir(data)}")


def entrypoint(folder, programs):
    """The start script of the image, as a container runs it, with the official variables."""
    start = os.path.join(PACKAGING, "docker", "docker-entrypoint.sh")
    port = server.free_port()
    folders = {f"ZOO_{name}_DIR": os.path.join(folder, name.lower()) for name in ("CONF", "DATA", "DATA_LOG", "LOG")}
    for path in folders.values():
        os.makedirs(path)
    with open(os.path.join(PACKAGING, "docker", "Dockerfile")) as file:
        text = file.read()
    defaults = {}
    for line in text[text.index("\nENV ") + 5:text.index("\n# The ids")].splitlines():
        name, _, value = line.strip().rstrip(" \\").partition("=")
        defaults[name] = value
    env = dict(defaults, **folders, ZOOCFGDIR=folders["ZOO_CONF_DIR"], FALCONER_BIN=programs, PATH=f"{SCRIPTS}:{os.environ['PATH']}",
               ZOO_MY_ID="3", ZOO_SERVERS=f"server.3=localhost:2888:3888;127.0.0.1:{port}", ZOO_TICK_TIME="1700",
               ZOO_4LW_COMMANDS_WHITELIST="*", ZOO_CFG_EXTRA="maxSessionTimeout=77000 snapCount=5000", ZOO_ADMINSERVER_ENABLED="false",
               JVMFLAGS="-Dzookeeper.extendedTypesEnabled=true")
    # As root it would become the user zookeeper, whose home this is not.
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
    if prefix:
        for path in [folder, *folders.values()]:
            os.chown(path, 65534, 65534)
    config = os.path.join(folders["ZOO_CONF_DIR"], "zoo.cfg")
    for turn in ("first", "second"):
        process = subprocess.Popen([*prefix, start, "zkServer.sh", "start-foreground"], env=env, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            answer, deadline = "", time.monotonic() + 30
            while "Mode:" not in answer and time.monotonic() < deadline and process.poll() is None:
                try:
                    answer = wire.four_letter_word("127.0.0.1", port, "srvr", 2.0)
                except OSError:
                    time.sleep(0.05)
            check(f"the {turn} start of the image serves", "Mode: standalone" in answer, answer)
            if "Mode:" not in answer:
                process.kill()
                print(process.communicate()[0])
                return
            conf = wire.four_letter_word("127.0.0.1", port, "conf", 2.0)
            for wanted in ("tickTime=1700", "maxSessionTimeout=77000", "maxClientCnxns=60", f"clientPort={port}"):
                check(f"the {turn} start: {wanted}", wanted in conf, conf)
            check("the data lies in /data and /datalog", os.path.exists(os.path.join(folders["ZOO_DATA_DIR"], "superblock"))
                  and os.path.isdir(os.path.join(folders["ZOO_DATA_LOG_DIR"], "log")), os.listdir(folder))
            if turn == "first":
                code, out, err = run([os.path.join(SCRIPTS, "zkCli.sh"), "-server", f"127.0.0.1:{port}", "create", "-t", "60000", "/ttl"], env)
                check("JVMFLAGS set a system property (TTL znodes)", code == 0 and "Created /ttl" in err, out + err)
                code, out, err = run([os.path.join(SCRIPTS, "zkServer.sh"), "status"], env)
                check("zkServer.sh status in the image", code == 0 and out.endswith("Mode: standalone\n"), out + err)
            # The process that the container runs is falconerd itself: a stop of the container reaches it.
            with open(f"/proc/{process.pid}/comm") as file:
                check("falconerd is the process of the container", file.read() == "falconerd\n")
            process.send_signal(signal.SIGTERM)
            check("it stops as a container is stopped", process.wait(30) == 0)
        finally:
            if process.poll() is None:
                process.kill()
            process.stdout.close()
        if turn == "first":
            with open(config) as file:
                text = file.read()
            check("every variable is in zoo.cfg", all(line in text.splitlines() for line in (
                "tickTime=1700", "initLimit=5", "syncLimit=2", "autopurge.snapRetainCount=3", "maxClientCnxns=60",
                "standaloneEnabled=true", "admin.enableServer=false", env["ZOO_SERVERS"], "4lw.commands.whitelist=*",
                "maxSessionTimeout=77000", "snapCount=5000")), text)
            with open(os.path.join(folders["ZOO_DATA_DIR"], "myid")) as file:
                check("myid", file.read() == "3\n")
            # What is there is left as it is.
            env.update(ZOO_TICK_TIME="9", ZOO_MY_ID="4")


def unit(folder, programs):
    if not shutil.which("systemd-analyze"):
        print("not checked: the unit, as systemd-analyze is missing")
        return
    with open(os.path.join(PACKAGING, "systemd", "falconer.service")) as file:
        text = file.read().replace("/usr/bin/falconerd", os.path.join(programs, "falconerd"))
    path = os.path.join(folder, "falconer.service")
    with open(path, "w") as file:
        file.write(text)
    code, out, err = run(["systemd-analyze", "verify", "--man=no", path])
    check("the unit is what systemd understands", code == 0 and not err, out + err)
    code, out, err = run(["systemd-analyze", "security", "--offline=true", "--threshold=20", path])
    check("the unit's exposure is at most 2.0", code == 0, out[-300:] + err)


def kubernetes(folder, programs):
    try:
        import yaml
    except ImportError:
        print("not checked: the example for Kubernetes, as PyYAML is missing")
        return
    with open(os.path.join(PACKAGING, "kubernetes", "statefulset.yaml")) as file:
        documents = list(yaml.safe_load_all(file))
    kinds = [document["kind"] for document in documents]
    check("the example's objects", kinds == ["Service", "Service", "PodDisruptionBudget", "StatefulSet"], kinds)
    pod = documents[-1]["spec"]["template"]["spec"]
    claims = [claim["metadata"]["name"] for claim in documents[-1]["spec"]["volumeClaimTemplates"]]
    volumes = {volume["name"] for volume in pod["volumes"]} | set(claims)
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    check("every mount has its volume", set(mounts) == volumes, (mounts, volumes))
    members = [entry["value"] for entry in pod["containers"][0]["env"] if entry["name"] == "ZOO_SERVERS"][0].split()
    check("as many members as replicas, by the names of the pods", members == [
        f"server.{i + 1}=zookeeper-{i}.zookeeper-headless:2888:3888;2181" for i in range(documents[-1]["spec"]["replicas"])], members)
    check("the paths are the image's", set(mounts.values()) == {"/data", "/datalog", "/conf", "/logs"}, mounts)


def pages(folder, programs):
    falconer = os.path.join(programs, "falconer")
    for shell, words in (("bash", ["bash", "-n"]), ("zsh", None), ("fish", None)):
        code, out, err = run([falconer, "completions", shell])
        check(f"completions for {shell}", code == 0 and "snapshot" in out and "read-only" in out, err)
        if words:
            check(f"{shell} reads them", subprocess.run(words, input=out, text=True).returncode == 0)
    man = os.path.join(folder, "man")
    code, out, err = run([falconer, "man", man])
    made = sorted(os.listdir(man)) if code == 0 else []
    check("manual pages", {"falconer.1", "falconer-shell.1", "falconer-log-dump.1"} <= set(made), (made, err))
    if not shutil.which("man"):
        print("not checked: how the manual pages look, as man is missing")
        return
    for page in [os.path.join(man, name) for name in made] + [os.path.join(PACKAGING, "man", "falconerd.8")]:
        code, out, err = run(["man", "--warnings", "-E", "UTF-8", "-l", page], dict(os.environ, MANWIDTH="100"))
        check(f"{os.path.basename(page)} can be shown", code == 0 and not err and "NAME" in out, err)


def main():
    programs = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else os.path.dirname(server.FALCONERD)
    for name in ("falconerd", "falconer"):
        if not os.path.exists(os.path.join(programs, name)):
            raise SystemExit(f"no {name} in {programs} (build it: cargo build --release --workspace)")
    for script in sorted(os.listdir(SCRIPTS)):
        check(f"bash reads {script}", run(["bash", "-n", os.path.join(SCRIPTS, script)])[0] == 0)
    for test in (scripts, entrypoint, unit, kubernetes, pages):
        folder = tempfile.mkdtemp(prefix=f"falconer-packaging-{test.__name__}-")
        try:
            test(folder, programs)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"{test.__name__}: done")
    print("PASS packaging" if failures == 0 else f"FAIL packaging: {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
