"""A local HTTP server for tests that does to a download whatever real servers do.

Each address has behaviours, functions of the request and the file's content. Each request uses up
one of them; the last one stays.
"""

import gzip
import http.server
import re
import socket
import struct
import threading
import time


class MisbehavingServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.routes = {}
        self.requests = []  # (path, first byte asked for) in the order of arrival
        self.release = threading.Event()  # lets the requests go on that `hangs_after` holds
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def add(self, path, content, *behaviours):
        """Serve `content` at `path`; return its address."""
        self.routes[path] = (content, list(behaviours) or [honest])
        return f"http://127.0.0.1:{self.server_port}{path}"

    def starts(self, path):
        """List the first byte of each request for `path`."""
        return [start for requested, start in self.requests if requested == path]

    def stop(self):
        self.release.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # clients that are killed, and resets, are what the tests are about


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.close_connection = True
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.start = int(found[1]) if found else 0
        self.server.requests.append((self.path, self.start))
        content, behaviours = self.server.routes.get(self.path, (b"", [status(404)]))
        behaviour = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]
        behaviour(self, content)

    def log_message(self, *args):
        pass

    def answer(self, code, body=b"", **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def honest_head(self, content):
        """Send the headers that are right for this request; return the body that is."""
        if self.start:
            piece = f"bytes {self.start}-{len(content) - 1}/{len(content)}"
            self.answer(206, Content_Range=piece, Content_Length=len(content) - self.start)
        else:
            self.answer(200, Content_Length=len(content))
        return content[self.start :]


def honest(request, content):
    request.wfile.write(request.honest_head(content))


def answers(code, body=None, **headers):
    """Answer every request alike; without a body, with the content."""

    def behaviour(request, content):
        request.answer(code, content if body is None else body, **headers)

    return behaviour


def status(code):
    return answers(code, b"", Content_Length=0)


def redirects(url):
    return answers(302, b"", Location=url, Content_Length=0)


def ignores_range(request, content):
    request.start = 0
    honest(request, content)


def closes_after(count):
    return lambda request, content: request.wfile.write(request.honest_head(content)[:count])


def resets_after(count):
    """End the connection as a crash does, without saying good-bye."""

    def behaviour(request, content):
        closes_after(count)(request, content)
        time.sleep(0.05)  # so that the client reads what was sent
        linger = struct.pack("ii", 1, 0)
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        request.connection.close()

    return behaviour


def hangs_after(count):
    def behaviour(request, content):
        body = request.honest_head(content)
        request.wfile.write(body[:count])
        request.server.release.wait(30)
        request.wfile.write(body[count:])

    return behaviour


def slow(bytes_per_second):
    def behaviour(request, content):
        body, step = request.honest_head(content), bytes_per_second // 50
        for place in range(0, len(body), step):
            request.wfile.write(body[place : place + step])
            time.sleep(0.02)

    return behaviour


def refuses_range(request, content):
    (status(416) if request.start else honest)(request, content)


def answers_another_range(request, content):
    """Asked to go on from a byte, go on from another one, and say so."""
    if request.start:
        request.start += 10
    honest(request, content)


def lies_about_range(request, content):
    """Say that it goes on from the byte asked for, and send the beginning."""
    request.wfile.write(request.honest_head(content) and content[: len(content) - request.start])


def names_no_range(request, content):
    body = content[request.start :]
    request.answer(206 if request.start else 200, body, Content_Length=len(body))


def packs(request, content):
    """Compress the file for the journey, though nobody asked for that."""
    packed = gzip.compress(content)
    request.answer(200, packed, Content_Encoding="gzip", Content_Length=len(packed))


def packs_when_allowed(request, content):
    encodings = request.headers.get("Accept-Encoding", "*")
    (packs if "gzip" in encodings or "*" in encodings else honest)(request, content)


def sends_without_end(request, content):
    request.answer(200)
    while True:
        request.wfile.write(bytes(1 << 16))
