"""Runs a client program against a fresh server: with_server.py NAME [server-command...] -- program [arguments...]

`{}` in the program's words becomes HOST:PORT. The exit status is the program's; the server must have survived it.
"""

import subprocess
import sys

import server


def main():
    name, *words = sys.argv[1:]
    cut = words.index("--")
    super_digest = "super:D/InIHSb7yEEbrWz8b9l71RjZJU="  # super:test
    s = server.Server(server.command_from(words[:cut]), {"tickTime": 500, "maxSessionTimeout": 60000}, [
        "-Dzookeeper.extendedTypesEnabled=true", "-Dznode.container.checkIntervalMs=500",
        f"-Dzookeeper.DigestAuthenticationProvider.superDigest={super_digest}"], name)
    try:
        s.start()
        program = [word.replace("{}", f"{s.host}:{s.port}") for word in words[cut + 1:]]
        status = subprocess.run(program, stdin=subprocess.DEVNULL).returncode
        if not s.running():
            print(f"the server died:\n{s.tail()}")
            status = 1
        elif status != 0:
            print(f"server's last words:\n{s.tail()}")
    except RuntimeError as error:
        print(error)
        status = 1
    finally:
        s.remove()
    print(f"PASS {name}" if status == 0 else f"FAIL {name}")
    return status


if __name__ == "__main__":
    sys.exit(main())
