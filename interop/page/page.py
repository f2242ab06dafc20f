"""Clicks through the page of the admin interface in a headless Chromium, under load, on a large tree.

page.py [--znodes N] [--children N] [--pictures DIR] [server-command...]

Chromium speaks its DevTools protocol over a pair of pipes, so that nothing but it and Python is needed. The test waits
for what a person would see, clicks what a person would click, and fails on any error in the console.
"""

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import server
import wire

BENCH = os.path.join(server.ROOT, "target", "release", "falconer")


class Browser:
    """One page in one headless Chromium."""

    def __init__(self):
        self.home = tempfile.mkdtemp(prefix="falconer-page-")
        to_read, self.write_end = os.pipe()
        self.read_end, to_write = os.pipe()

        def pipes():
            # Chromium reads descriptor 3 and writes 4. Neither end may be overwritten before it is moved.
            a, b = os.dup(to_read), os.dup(to_write)
            a, b = os.dup(a) if a < 5 else a, os.dup(b) if b < 5 else b
            os.dup2(a, 3)
            os.dup2(b, 4)
            os.set_inheritable(3, True)
            os.set_inheritable(4, True)

        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if program is None:
            raise SystemExit("no chromium (Debian: apt-get install chromium)")
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
             "--remote-debugging-pipe", f"--user-data-dir={self.home}", "about:blank"],
            close_fds=False, preexec_fn=pipes, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.rest, self.next_id, self.session, self.errors = b"", 0, None, []
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.requests = []

    def call(self, method, **params):
        self.next_id += 1
        message = {"id": self.next_id, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.next_id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def receive(self):
        while b"\0" not in self.rest:
            part = os.read(self.read_end, 1 << 20)
            if not part:
                raise RuntimeError("chromium is gone")
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        event = json.loads(message)
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"].get("exception", {}).get("description", str(params)))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return event

    def js(self, code):
        result = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{code}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, code, what, seconds=20.0):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            # A found element comes back as an empty object: its truth is asked for there.
            value = self.js(f"!!({code})")
            if value:
                return value
            time.sleep(0.1)
        raise AssertionError(f"{what}: not within {seconds} s; errors: {self.errors}")

    def open(self, url):
        """Opens a page and waits for the whole of it: a navigation is answered while the document still arrives,
        and what is asked of it before its end (an element, a variable of its script) isn't there yet."""
        self.call("Page.navigate", url=url)
        self.wait(f"document.readyState==='complete' && location.href==={json.dumps(url)}", f"{url} is loaded")

    def click(self, selector):
        """A real click, in the middle of what the selector finds."""
        box = self.js(f"(()=>{{const e=document.querySelector({json.dumps(selector)});if(!e)return null;"
                      "e.scrollIntoView({block:'center'});const r=e.getBoundingClientRect();"
                      "return [r.x+r.width/2,r.y+r.height/2]})()")
        if box is None:
            raise AssertionError(f"there is no {selector} to click")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def type(self, selector, text):
        self.js(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def size(self, width, height, dark):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)


def admin_port(s):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with open(s.output, errors="replace") as file:
            found = re.search(r"the admin interface is on http://127\.0\.0\.1:(\d+)", file.read())
        if found:
            return int(found.group(1))
        time.sleep(0.1)
    raise AssertionError("the log names no admin interface")


def bench(s, *arguments, **rest):
    command = [BENCH, "bench", *arguments, "-s", f"{s.host}:{s.port}", "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **rest)


def run(arguments, s, browser):
    url = f"http://127.0.0.1:{admin_port(s)}/"
    client = s.session(timeout=60000)
    fill(client, arguments.children)
    client.close()
    if bench(s, "--preload", str(arguments.znodes)).wait() != 0:
        raise AssertionError("the tree could not be made")
    load = bench(s, "mix", "--reads", "80", "-c", "32", "-o", "8", "-d", "600s", "--keep")
    try:
        browser.size(1440, 1180, dark=False)
        browser.open(url)
        browser.wait("document.getElementById('state').textContent==='standalone'", "the page comes to life")
        browser.wait("samples.length>=8 && samples[samples.length-1].req[0][0]>0", "reads show")
        browser.wait(f"previous.znodes>{arguments.znodes}", "the tree is as large as it was made")
        # It moves.
        before = browser.js("last")
        browser.wait(f"last>={before}+3", "seconds go by")
        drawn = ("(id=>{const c=document.getElementById(id),d=c.getContext('2d').getImageData(0,0,c.width,c.height).data;"
                 "const seen=new Set();for(let i=0;i<d.length;i+=4)if(d[i+3])seen.add(d[i]<<16|d[i+1]<<8|d[i+2]);return seen.size})")
        for canvas in ("c-rate", "c-lat", "c-stage", "c-sync"):
            assert browser.js(f"{drawn}('{canvas}')") > 5, f"{canvas} shows nothing"
        browser.wait("[...document.querySelectorAll('#t-names td.mono')].some(t=>t.textContent==='/bench')", "/bench shows")
        time.sleep(arguments.show)
        picture(arguments, browser, "page-overview")
        # Clients.
        browser.click("nav button[data-view=clients]")
        browser.wait("document.querySelectorAll('#t-sessions tbody tr').length>=16", "sessions show")
        assert browser.js("document.querySelector('#t-clients tbody td').textContent") == "127.0.0.1"
        picture(arguments, browser, "page-clients")
        # The server stands still for a moment. Requests that lie in its sockets meanwhile are not slow to it, and there may have
        # been no other: what shows as slow is what the load makes so.
        s.process.send_signal(19)
        time.sleep(1.2)
        s.process.send_signal(18)
        browser.click("nav button[data-view=slow]")
        browser.wait("document.querySelectorAll('#t-slow .split').length>=1", "slow requests show")
        # Other warnings may stand there before: of a durable write that the stop has caught, or of a disk that was slow earlier.
        browser.wait("document.querySelector('#warnings')?.textContent.includes('this process was not run for')",
                     "the standstill is put down to the processor")
        picture(arguments, browser, "page-slow")
        # The tree: a znode with many children, paged.
        browser.click("nav button[data-view=tree]")
        browser.wait("document.querySelector('#kids li[data-name=crowd]')", "the root's children show")
        began = time.monotonic()
        browser.click("#kids li[data-name=crowd]")
        total = f"{arguments.children:,}"
        browser.wait(f"document.getElementById('kidcount').textContent==='100 of {total} children'", "the first page")
        first_page = time.monotonic() - began
        browser.click("#more")
        browser.wait(f"document.getElementById('kidcount').textContent==='200 of {total} children'", "the second page")
        names = browser.js("[...document.querySelectorAll('#kids li')].map(l=>l.dataset.name)")
        assert names == sorted(names) and len(set(names)) == 200, "pages follow each other in order"
        wanted = f"child-{arguments.children - 7:07d}"
        browser.type("#prefix", wanted)
        browser.wait(f"document.querySelectorAll('#kids li').length===1&&document.querySelector('#kids li').dataset.name==='{wanted}'",
                     "a child far behind is found by its name")
        browser.click("#kids li")
        browser.wait(f"document.getElementById('npath').textContent==='/crowd/{wanted}'", "its details show")
        browser.wait("document.getElementById('nvalue').textContent.includes('\"number\"')", "its value as text")
        for tab, proof in (("json", f'"number": {arguments.children - 7}'), ("hex", "000000  7b"), ("text", '{"number"')):
            browser.click(f"#vtabs button[data-as={tab}]")
            browser.wait(f"document.getElementById('nvalue').textContent.includes({json.dumps(proof)})", f"its value as {tab}")
        assert browser.js("document.querySelector('#nacl td').textContent") == "world"
        assert browser.js("[...document.querySelectorAll('#nstat dt')].length") == 11
        picture(arguments, browser, "page-tree")
        # What an ACL hides, and shows to whoever has the credential.
        browser.js("document.getElementById('goto').value='/closed';document.getElementById('go').click()")
        browser.wait("document.getElementById('nvalue').textContent.includes('does not let you')", "a closed value stays closed")
        browser.js("const c=document.getElementById('cred');c.value='digest user:secret';c.onchange()")
        browser.wait("document.getElementById('nvalue').textContent==='hidden'", "the credential opens it")
        # Dark, small, and nothing from elsewhere.
        browser.size(1440, 1180, dark=True)
        browser.click("nav button[data-view=overview]")
        time.sleep(2.5)
        picture(arguments, browser, "page-dark")
        browser.size(420, 900, dark=False)
        assert browser.js("document.documentElement.scrollWidth<=window.innerWidth+400"), "it fits a telephone"
        outside = [r for r in browser.requests if not r.startswith((url, "data:", "about:"))]
        assert not outside, f"the page asks elsewhere: {outside}"
        # The refusals that the test itself provoked are told by the browser as errors.
        errors = [e for e in browser.errors if "403" not in e]
        assert not errors, f"the console: {errors}"
        assert s.running(), "the server died"
        print(f"first page of {total} children after {first_page * 1000:.0f} ms")
    finally:
        load.kill()
        load.wait()


def fill(client, children):
    """A crowd of children with JSON for values, and a znode that an ACL closes."""
    def made(reply):
        if reply.err != 0:
            raise AssertionError(f"the tree could not be made: {reply}")

    made(client.create("/crowd"))
    for start in range(0, children, 500):
        made(client.call(wire.MULTI, wire.multi_record(
            (wire.CREATE, wire.create_record(f"/crowd/child-{i:07d}", json.dumps({"number": i}).encode()))
            for i in range(start, min(start + 500, children)))))
    made(client.create("/closed", b"hidden", [(31, "digest", wire.digest_id("user:secret"))]))


def picture(arguments, browser, name):
    if arguments.pictures:
        os.makedirs(arguments.pictures, exist_ok=True)
        browser.picture(os.path.join(arguments.pictures, f"{name}.png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--znodes", type=int, default=1_000_000)
    parser.add_argument("--children", type=int, default=100_000)
    parser.add_argument("--pictures", help="write pictures of the page there")
    parser.add_argument("--show", type=float, default=0, help="seconds of load before the first picture")
    parser.add_argument("command", nargs="*")
    arguments = parser.parse_args()
    s = server.Server(server.command_from(arguments.command),
                      {"admin.enableServer": "true", "admin.serverPort": 0, "falconer.slowRequestMs": 1}, name="page")
    browser = None
    try:
        s.start(wait=120)
        browser = Browser()
        run(arguments, s, browser)
        status = 0
    except (AssertionError, RuntimeError, OSError) as error:
        print(f"{type(error).__name__}: {error}\n{s.tail()}")
        if browser is not None:
            print(f"the page says: {browser.js('document.body.innerText')[:2000]}")
        status = 1
    finally:
        if browser is not None:
            browser.close()
        s.remove()
    print("PASS page" if status == 0 else "FAIL page")
    return status


if __name__ == "__main__":
    sys.exit(main())
