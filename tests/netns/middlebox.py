"""A proxy of the kind that WebSockets do not pass: the rest of HTTP goes through.

    python -m tests.netns.middlebox HOST PORT TO_PORT CERTIFICATE KEY

It ends TLS, answers 400 to a connection that begins with an upgrade, and hands any other on to
TO_PORT of the same host. Prints a line when it listens. One thread for each direction.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading

HEAD_BYTES = 65_536
REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def pipe(source: ssl.SSLSocket, to: ssl.SSLSocket) -> None:
    """Bytes one way, until either side ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            to.sendall(data)
    for side in (source, to):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


def serve(plain: socket.socket, server: ssl.SSLContext, there: tuple[str, int]) -> None:
    """One connection."""
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE  # it is on this machine
    with contextlib.suppress(OSError), server.wrap_socket(plain, server_side=True) as near:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < HEAD_BYTES:
            data = near.recv(4_096)
            if not data:
                return
            head += data
        if b"\r\nupgrade:" in head.lower():
            near.sendall(REFUSAL)
            return
        with (
            socket.create_connection(there) as further,
            client.wrap_socket(further) as far,
        ):
            far.sendall(head)
            back = threading.Thread(target=pipe, args=(far, near), daemon=True)
            back.start()
            pipe(near, far)
            back.join()


def main(argv: list[str]) -> None:
    """See above."""
    host, port, to_port, certificate, key = argv
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    with socket.create_server((host, int(port)), backlog=64) as listener:
        print("listening", flush=True)
        while True:
            plain, _ = listener.accept()
            there = (host, int(to_port))
            threading.Thread(target=serve, args=(plain, server, there), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1:])
