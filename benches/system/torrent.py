"""libtorrent and a tracker for the benchmark: make FILE OUT | seed TORRENT DIR IP PORT | get TORRENT DIR IP PORT PEER... | track PORT PEER..."""
import http.server
import os
import socket
import struct
import sys
import time


def session(ip, port):
    import libtorrent as lt

    # Plain TCP: the fastest that libtorrent does, neither encrypted nor coded.
    return lt.session({
        "listen_interfaces": f"{ip}:{port}", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
        "enable_natpmp": False, "allow_multiple_connections_per_ip": True, "alert_mask": 0,
        "enable_outgoing_utp": False, "enable_incoming_utp": False,
    })


def add(ses, torrent, folder, flags=0):
    import libtorrent as lt

    p = lt.add_torrent_params()
    p.ti = lt.torrent_info(torrent)
    p.save_path = folder
    p.flags = (p.flags | flags) & ~lt.torrent_flags.auto_managed & ~lt.torrent_flags.paused
    return ses.add_torrent(p)


def make(path, out, tracker=""):
    import libtorrent as lt

    fs = lt.file_storage()
    lt.add_files(fs, path)
    # Version 1 alone: aria2 knows no other, and it is the faster one to make.
    t = lt.create_torrent(fs, 0, flags=lt.create_torrent.v1_only)
    if tracker:
        t.add_tracker(tracker)
    lt.set_piece_hashes(t, os.path.dirname(path))
    with open(out, "wb") as f:
        f.write(lt.bencode(t.generate()))
    print("done", flush=True)


def seed(torrent, folder, ip, port):
    import libtorrent as lt

    ses = session(ip, port)
    h = add(ses, torrent, folder, lt.torrent_flags.seed_mode)
    while not h.status().is_seeding:
        time.sleep(0.01)
    print("ready", flush=True)
    while True:
        time.sleep(3600)


def get(torrent, folder, ip, port, *peers):
    ses = session(ip, port)
    h = add(ses, torrent, folder)
    for peer in peers:
        host, number = peer.rsplit(":", 1)
        h.connect_peer((host, int(number)))
    while not h.status().is_seeding:
        time.sleep(0.01)
    print("done", flush=True)


def track(port, *peers):
    blob = b"".join(socket.inet_aton(p.rsplit(":", 1)[0]) + struct.pack(">H", int(p.rsplit(":", 1)[1])) for p in peers)
    body = b"d8:intervali30e5:peers%d:" % len(blob) + blob + b"e"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    print("ready", flush=True)
    server.serve_forever()


{"make": make, "seed": seed, "get": get, "track": track}[sys.argv[1]](*sys.argv[2:])
