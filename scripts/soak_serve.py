#!/usr/bin/env python3
"""Treats `gust serve` badly and looks whether anybody else notices. Needs Linux and nothing but Python.

    scripts/soak_serve.py soak --minutes 10     200 clients at once: streams, disconnects at random times, slow readers,
                                                broken bodies, half-sent heads, floods. Every stream that is read to its end must
                                                have the same text as alone; memory and slots must come back.
    scripts/soak_serve.py faults                SIGKILL, SIGABRT, SIGBUS of the runner under 16 streams; SIGTERM with
                                                streams open; 600 requests at once.
    scripts/soak_serve.py flood                 Only the last of these.

Prints what it measured and exits with 1 if something is not as promised in the README.
"""

import argparse
import asyncio
import json
import os
import random
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = "river stone seven blue morning engine letter window garden north paper silver yellow market winter signal".split()
FAULTS: list[str] = []


def expect(good: bool, what: str) -> None:
    print(f"  {'ok  ' if good else 'FAIL'} {what}", flush=True)
    if not good:
        FAULTS.append(what)


class Server:
    """A running `gust serve` on a free port."""

    def __init__(self, args: argparse.Namespace, *flags: str):
        command = [str(args.gust), "serve", "--port", "0", "--queue", str(args.queue), "--slots", str(args.slots), "--threads", str(args.threads)]
        self.started = time.monotonic()
        self.process = subprocess.Popen([*command, *flags], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.port = None
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        if self.port is None:
            sys.exit("the server did not say where it listens")
        # Nobody reads the log; a full pipe must not hold the server up.
        self.log = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)

    def runner(self) -> int | None:
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:
            return None
        threads = Path(f"/proc/{self.process.pid}/task").iterdir() if not children else []
        for thread in threads:
            children += (thread / "children").read_text().split()
        return int(children[0]) if children else None

    def memory_mib(self) -> tuple[float, float]:
        """Anonymous memory of front and runner, swap included."""

        def of(pid: int | None) -> float:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                return 0.0
            return sum(int(n) for n in re.findall(r"(?:RssAnon|VmSwap):\s+(\d+)", status)) / 1024

        return of(self.process.pid), of(self.runner())

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()


async def connect(port: int, limit: int = 1 << 16):
    return await asyncio.open_connection("127.0.0.1", port, limit=limit)


def post(body: bytes, path: str = "/v1/chat/completions") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def get(port: int, path: str) -> tuple[int, dict]:
    reader, writer = await connect(port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    raw = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    try:
        return int(head.split()[1]), json.loads(body)
    except ValueError:
        return int(head.split()[1]), {"text": body.decode()}


def question(i: int) -> dict:
    draw = random.Random(i)
    text = " ".join(draw.choice(WORDS) for _ in range(draw.randint(3, 120)))
    return {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": draw.randint(4, 80),
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logit_bias": {"2": -100} if i % 2 else {},
    }


class Stream:
    """One streamed answer as it is read."""

    def __init__(self):
        self.status, self.text, self.finish, self.usage, self.error, self.done = 0, "", None, None, None, False
        self.first = None

    async def read(self, port: int, body: dict, cut: float | None = None, pause: float = 0.0) -> "Stream":
        """Reads to the end, or only for `cut` seconds; `pause` sleeps after each piece."""
        reader, writer = await connect(port)
        try:
            writer.write(post(json.dumps(body).encode()))
            await asyncio.wait_for(self._read(reader, pause), cut)
        except (asyncio.TimeoutError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
        return self

    async def _read(self, reader: asyncio.StreamReader, pause: float) -> None:
        self.status = int((await reader.readline()).split()[1])
        if self.status != 200:
            await reader.read()
            return
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                continue
            data = line[6:].strip()
            if data == b"[DONE]":
                self.done = True
                return
            event = json.loads(data)
            if "error" in event:
                self.error = event["error"]
                return
            self.usage = event.get("usage") or self.usage
            for choice in event.get("choices", []):
                if said := choice["delta"].get("content"):
                    self.first = self.first or time.monotonic()
                    self.text += said
                self.finish = choice["finish_reason"] or self.finish
            if pause:
                await asyncio.sleep(pause)


BROKEN = [
    b"", b"{", b"null", b"[]", b"{}", b'{"messages":5}', b'{"messages":[]}', b'{"messages":[{"role":"x","content":"a"}]}', b"\xff\xfe",
    b'{"messages":[{"role":"user","content":"a"}],"max_tokens":-1}', b'{"messages":[{"role":"user","content":"a"}],"temperature":"hot"}',
    b"[" * 5000, b'{"a":' * 300 + b"1" + b"}" * 300, b'{"messages":[{"role":"user","content":"a"}],"tools":[{"type":"function"}]}',
    b'{"messages":[{"role":"user","content":"a"}],"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"$ref":"#"}}}}',
    b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]}]}',
]


async def misbehave(port: int, draw: random.Random, counts: dict) -> None:
    kind = draw.randrange(4)
    reader, writer = await connect(port)
    try:
        if kind < 2:
            writer.write(post(draw.choice(BROKEN)))
            status = (await asyncio.wait_for(reader.readline(), 20)).split()
            good = len(status) > 1 and 400 <= int(status[1]) < 500
            counts["refused" if good else "not refused"] += 1
        elif kind == 2:
            writer.write(b"POST /v1/chat/completions HTT")
            await asyncio.sleep(draw.random())
        else:
            writer.write(post(b'{"messages":[' + b" " * 1000)[:-500])
            await asyncio.sleep(draw.random())
    except (ConnectionError, asyncio.TimeoutError, IndexError):
        counts["cut off"] += 1
    finally:
        writer.transport.abort()


async def client(port: int, seed: int, end: float, truth: dict, counts: dict) -> None:
    draw = random.Random(seed)
    while time.monotonic() < end:
        i = draw.randrange(len(truth))
        kind = draw.random()
        try:
            if kind < 0.55:
                stream = await Stream().read(port, question(i))
                if stream.status == 429:
                    counts["turned away"] += 1
                    await asyncio.sleep(0.2)
                elif stream.done and stream.usage and stream.text == truth[i][0] and stream.finish == truth[i][1]:
                    counts["complete"] += 1
                else:
                    counts["wrong"] += 1
                    print(f"  wrong: question {i}, status {stream.status}, finish {stream.finish}, error {stream.error}, {stream.text[:60]!r}", flush=True)
            elif kind < 0.75:
                await Stream().read(port, question(i), cut=draw.random() * 1.5)
                counts["left"] += 1
            elif kind < 0.80:
                await Stream().read(port, question(i), cut=5, pause=0.2)
                counts["slow"] += 1
            else:
                await misbehave(port, draw, counts)
        except (ConnectionError, OSError):
            counts["no connection"] += 1
            await asyncio.sleep(0.1)


async def metrics(port: int) -> dict[str, float]:
    _, answer = await get(port, "/metrics")
    return {m[1]: float(m[2]) for m in re.finditer(r"^(gust_\w+)(?:\{[^}]*\})? ([0-9.e+-]+)$", answer.get("text", ""), re.M)}


async def settled(port: int, seconds: float) -> float | None:
    """Seconds until nothing runs or waits."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        found = await metrics(port)
        if found.get("gust_requests_running") == 0 and found.get("gust_requests_waiting") == 0:
            return time.monotonic() - start
        await asyncio.sleep(0.02)
    return None


async def soak(args: argparse.Namespace) -> None:
    server = Server(args)
    await ready(server, 60)
    truth = {}
    for i in range(args.questions):
        stream = await Stream().read(server.port, question(i))
        assert stream.done, f"question {i} alone: {stream.status} {stream.error}"
        truth[i] = (stream.text, stream.finish)
    print(f"{len(truth)} questions answered alone; {args.clients} clients for {args.minutes} minutes", flush=True)
    counts = dict.fromkeys(["complete", "wrong", "turned away", "left", "slow", "refused", "not refused", "cut off", "no connection"], 0)
    pid, descriptors = server.runner(), server.descriptors()
    end = time.monotonic() + args.minutes * 60
    clients = [asyncio.create_task(client(server.port, i, end, truth, counts)) for i in range(args.clients)]
    memory = []
    while time.monotonic() < end:
        await asyncio.sleep(min(15, max(0.1, end - time.monotonic())))
        memory.append(server.memory_mib())
        print(f"  {int(end - time.monotonic()):4d} s left, front {memory[-1][0]:.0f} MiB, runner {memory[-1][1]:.0f} MiB, {counts}", flush=True)
    await asyncio.gather(*clients)
    idle = await settled(server.port, 10)
    print(counts)
    expect(counts["wrong"] == 0, f"{counts['complete']} complete answers, {counts['wrong']} wrong")
    expect(counts["not refused"] == 0, f"{counts['refused']} broken bodies refused, {counts['not refused']} not")
    expect(idle is not None and idle <= 1, f"idle {idle if idle is None else round(idle, 2)} s after the last client")
    expect(server.runner() == pid, "the runner is the same process")
    await asyncio.sleep(1)
    expect(server.descriptors() <= descriptors + 5, f"{descriptors} descriptors before, {server.descriptors()} after")
    third = max(1, len(memory) // 3)
    for which, at in [("front", 0), ("runner", 1)]:
        early, late = (statistics.median(m[at] for m in part) for part in (memory[third : 2 * third], memory[-third:]))
        expect(late - early <= max(4, early * 0.03), f"{which}: {early:.0f} MiB in the middle third, {late:.0f} in the last")
    server.stop()


async def ready(server: Server, seconds: float) -> float | None:
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        try:
            if (await get(server.port, "/health"))[0] == 200:
                return time.monotonic() - start
        except (OSError, asyncio.TimeoutError, IndexError):
            pass
        await asyncio.sleep(0.01)
    return None


async def long_stream(port: int, i: int) -> tuple[Stream, float]:
    body = {**question(i), "max_tokens": 100000, "logit_bias": {"2": -100}}
    stream = await Stream().read(port, body)
    return stream, time.monotonic()


async def faults(args: argparse.Namespace) -> None:
    server = Server(args)
    load = await ready(server, 60)
    truth = await Stream().read(server.port, question(1))
    for number in [signal.SIGKILL, signal.SIGABRT, signal.SIGBUS]:
        print(f"{number.name} of the runner under 16 streams")
        tasks = [asyncio.create_task(long_stream(server.port, i)) for i in range(16)]
        await asyncio.sleep(1.5)
        killed = time.monotonic()
        os.kill(server.runner(), number)
        ended = await asyncio.wait_for(asyncio.gather(*tasks), 30)
        slowest = max(at for _, at in ended) - killed
        told = sum(stream.error is not None for stream, _ in ended)
        expect(told == 16 and slowest <= 1, f"{told} of 16 streams got an error event, the last after {slowest * 1000:.0f} ms")
        again = await ready(server, 60)
        expect(again is not None and again <= 2 + load, f"ready again after {again:.2f} s (first start {load:.2f} s)")
        stream = await Stream().read(server.port, question(1))
        expect(stream.text == truth.text and stream.done, "the next answer is as before")
        await asyncio.sleep(21)  # three deaths a minute are a crash loop
    await flood(server)
    print("SIGTERM with 8 streams open")
    tasks = [asyncio.create_task(long_stream(server.port, i)) for i in range(8)]
    await asyncio.sleep(1)
    start = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    ended = await asyncio.wait_for(asyncio.gather(*tasks), 60)
    server.process.wait(20)
    took = time.monotonic() - start
    told = sum(stream.error is not None or stream.done for stream, _ in ended)
    expect(told == 8 and took <= 10.5, f"{told} of 8 streams got a terminal event, gone after {took:.1f} s")
    expect(server.process.returncode == 0, f"exit code {server.process.returncode}")


def ask_all(port: int, n: int, request: bytes, leave: float) -> list[float]:
    """Sends a request over each of `n` connections at once and leaves after `leave` seconds; how many milliseconds
    each that was turned away had to wait. Plain sockets: an event loop of Python is slower than what is measured."""
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(n)]
    by_number = {s.fileno(): s for s in sockets}
    sent, refusals = {}, []
    poll = select.poll()
    for s in sockets:
        poll.register(s, select.POLLIN)
        sent[s.fileno()] = time.monotonic()
        s.sendall(request)
    end = time.monotonic() + leave
    while time.monotonic() < end:
        for number, _ in poll.poll(50):
            if b" 429 " in by_number[number].recv(4096)[:20]:
                refusals.append((time.monotonic() - sent[number]) * 1000)
            poll.unregister(number)
    for s in sockets:
        s.close()
    return refusals


async def flood(server: Server) -> None:
    print("600 requests at once")
    body = {**question(1), "max_tokens": 400, "logit_bias": {"2": -100}}
    healths = []

    async def health() -> None:
        while True:
            start = time.monotonic()
            await get(server.port, "/health")
            healths.append((time.monotonic() - start) * 1000)
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(health())
    refusals = await asyncio.to_thread(ask_all, server.port, 600, post(json.dumps(body).encode()), 4)
    idle = await settled(server.port, 20)
    watching.cancel()
    refusals.sort()
    healths.sort()
    at = lambda times, share: times[min(len(times) - 1, int(len(times) * share))] if times else float("nan")
    expect(at(refusals, 0.99) <= 50, f"{len(refusals)} turned away; after {at(refusals, 0.5):.0f} ms at p50, {at(refusals, 0.99):.0f} at p99")
    expect(at(healths, 0.99) <= 50, f"/health p99 {at(healths, 0.99):.0f} ms of {len(healths)}")
    expect(idle is not None and idle <= 1, f"idle {idle if idle is None else round(idle, 2)} s after the clients left")


async def only_flood(args: argparse.Namespace) -> None:
    server = Server(args)
    await ready(server, 60)
    await flood(server)
    server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["soak", "faults", "flood"])
    parser.add_argument("--gust", type=Path, default=ROOT / "target/release/gust")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--queue", type=int, default=256)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    asyncio.run({"soak": soak, "faults": faults, "flood": only_flood}[args.what](args))
    if FAULTS:
        sys.exit(f"{len(FAULTS)} not as promised")


if __name__ == "__main__":
    main()
