"""Stands in for every server of the world: a proxy that answers itself, under whatever name it is asked for.

serve.py PORT DIRECTORY CA: `DIRECTORY/PATH` is what a server has at PATH; a directory is a page of its files (PEP 503).
"""

import hashlib
import html
import http.server
import os
import ssl
import subprocess
import sys
import threading
import urllib.parse

port, directory, authority = int(sys.argv[1]), sys.argv[2], sys.argv[3]
contexts, lock = {}, threading.Lock()


def context(host):
    """Returns a TLS context with a certificate for a host."""
    with lock:
        if host not in contexts:
            base = os.path.join(authority, host.replace("/", "_"))
            run = lambda *words: subprocess.run(["openssl", *words], check=True, capture_output=True)
            run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", base + ".key", "-out", base + ".csr", "-subj", "/CN=x")
            with open(base + ".ext", "w") as extensions:
                extensions.write(f"subjectAltName=DNS:{host}\n")
            run("x509", "-req", "-in", base + ".csr", "-CA", authority + "/ca.pem", "-CAkey", authority + "/ca.key",
                "-CAcreateserial", "-out", base + ".pem", "-days", "2", "-extfile", base + ".ext")
            contexts[host] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            contexts[host].load_cert_chain(base + ".pem", base + ".key")
        return contexts[host]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self):
        host = self.path.rsplit(":", 1)[0]
        self.send_response(200)
        self.end_headers()
        self.connection = context(host).wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        place = os.path.join(directory, path.strip("/"))
        print(self.command, self.headers.get("Host"), path, flush=True)
        if os.path.isdir(place):
            link = lambda file: f'<a href="{html.escape(urllib.parse.quote(file))}#sha256={digest(place, file)}">{file}</a><br>'
            body = "".join(map(link, sorted(os.listdir(place)))).encode()
            return self.answer(200, "text/html", body if path.endswith("/") else body)
        if os.path.isfile(place):
            with open(place, "rb") as file:
                return self.answer(200, "application/octet-stream", file.read())
        return self.answer(404, "text/plain", b"")

    do_HEAD = do_GET

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def digest(place, file):
    with open(os.path.join(place, file), "rb") as opened:
        return hashlib.sha256(opened.read()).hexdigest()


http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
