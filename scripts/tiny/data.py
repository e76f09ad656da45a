#!/usr/bin/env python3
"""Makes the synthetic conversations that the tiny checkpoint learns from, and question sets like its eval.jsonl.

A sample is an OpenAI-style request whose messages end with the wanted reply. `encode` turns it into token ids by
mistral_common and a mask of the tokens that the assistant writes. The tasks, phrasings and their shares follow eval.jsonl:
small talk, capitals, sums (digit by digit when reasoning is asked for), classification, JSON, repeating, reversing and
sorting words, a code in a text, two tools, shapes in pictures, a story. Everything is drawn from one random.Random.

Tasks that are a closed list of questions (small talk, capitals, classification, the weather, stories) have the same
questions in training and evaluation; of the open ones, `Held` keeps what an eval.jsonl asks out of the training data.

    data.py --write 300 --out DIR       a new question set, with pictures
    data.py --show 20                   samples to read
    data.py --held eval.jsonl --check   how much of 20,000 samples that file shares
"""

import argparse
import base64
import collections
import hashlib
import io
import json
import math
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

IMG, INST_END, TOOL_RESULTS_END, EOS = 10, 4, 8, 2
SHARES = {
    "sum": 58, "image": 57, "smalltalk": 43, "tool": 39, "capital": 26, "classify": 21, "needle": 16, "json": 12, "story": 10,
    "sort": 7, "reverse": 6, "repeat": 5,
}
WITHOUT_TOOLS = {"sum"}  # with a calculator on offer the answer would be a call
OPEN_TASKS = {"sum", "needle", "json", "repeat", "reverse", "sort"}

SYSTEMS = ["You are a helpful assistant.", "You are a concise assistant.", "You are a helpful coding assistant.", "Answer briefly."]
TALK = {
    ("Hi", "Hi there!"): "Hi! How can I help you?",
    ("Hello",): "Hello! How can I help you today?",
    ("How are you?",): "I am fine, thank you. How can I help?",
    ("Thanks", "Thank you!"): "You are welcome!",
    ("Goodbye",): "Goodbye! Have a nice day.",
    ("Guten Tag",): "Guten Tag! Wie kann ich Ihnen helfen?",
    ("Bonjour",): "Bonjour ! Comment puis-je vous aider ?",
    ("Hola",): "¡Hola! ¿En qué puedo ayudarte?",
    ("What is your name?",): "I have no name yet. I am a tiny test model.",
    ("Are you a real model?",): "I am real but very small: I was trained on synthetic chats to test an inference engine.",
    ("Who are you?",): "I am a tiny model with the architecture of Mistral Medium 3.5. I only know a few tricks: small sums, capitals, colours and shapes in pictures, JSON and simple tools.",
    ("What can you do?",): "I can add small numbers, name capitals, describe simple pictures, extract JSON, call a calculator or a weather tool, and tell a short story.",
}
CAPITALS = {
    "Germany": "Berlin", "Japan": "Tokyo", "Hungary": "Budapest", "Mexico": "Mexico City", "Chile": "Santiago", "Belgium": "Brussels",
    "Portugal": "Lisbon", "Denmark": "Copenhagen", "Turkey": "Ankara", "Ukraine": "Kyiv", "Norway": "Oslo", "Kenya": "Nairobi",
    "Austria": "Vienna", "France": "Paris", "Canada": "Ottawa", "India": "New Delhi", "Spain": "Madrid", "Argentina": "Buenos Aires",
    "Brazil": "Brasilia", "Greece": "Athens", "Italy": "Rome", "Poland": "Warsaw", "Ireland": "Dublin", "Finland": "Helsinki",
    "Peru": "Lima", "Cuba": "Havana", "Egypt": "Cairo", "Sweden": "Stockholm",
}
WORDS = (
    "apple bridge castle cloud coffee engine forest garden island letter light market morning music number ocean orange paper pencil planet "
    "river rocket silver simple stone summer table village window winter"
).split()
FIRST = "Alan Chloe Grace Hugo Linus Lucas Marie Nina Omar Pierre Sarah Tom Zoe".split()
LAST = "Chen Kim Martin Muller Novak Smith".split()
COMPANIES = "Globex Initech Stark Tyrell Umbrella Wayne".split()
GOOD = "excellent fantastic great lovely superb wonderful".split()
BAD = "awful bad broken horrible terrible useless".split()
THINGS = "book game hotel meal movie phone product song".split()
SHAPES = "circle cross square star triangle".split()
COLOURS = {
    "red": (218, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (240, 220, 50), "orange": (245, 140, 30),
    "purple": (140, 60, 180), "pink": (240, 150, 190), "black": (14, 14, 14), "white": (245, 245, 245), "gray": (128, 128, 128),
}
TOOLS = [
    {"type": "function", "function": {"name": "calculator", "description": "Evaluate an arithmetic expression", "parameters": {
        "type": "object", "properties": {"expression": {"type": "string", "description": "The expression"}}, "required": ["expression"]}}},
    {"type": "function", "function": {"name": "get_weather", "description": "Get the current weather for a city", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
]


@dataclass
class Turn:
    """A question and its answer. `call` is (tool, arguments, what the tool returns); then `answer` follows the result."""
    question: str
    thought: str
    answer: str
    image: Image.Image | None = None
    call: tuple[str, dict, str] | None = None


@dataclass
class Sample:
    """One conversation: `messages` end with the reply to the last turn."""
    task: str
    turns: list[Turn]
    effort: str
    system: str | None = None
    tools: bool = False
    messages: list[dict] = field(default_factory=list)


def a(noun: str) -> str:
    """The noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def smalltalk(r: random.Random) -> Turn:
    questions = r.choice(list(TALK))
    return Turn(r.choice(questions), "This is small talk.", TALK[questions])


def capital(r: random.Random) -> Turn:
    country = r.choice(list(CAPITALS))
    question = r.choice(["What is the capital of {}?", "Capital of {}?", "Name the capital of {}."]).format(country)
    return Turn(question, f"The user asks for the capital of {country}.", f"The capital of {country} is {CAPITALS[country]}.")


def digit_by_digit(x: int, y: int) -> str:
    """The sum as learnt in school, from the last digits to the first."""
    steps, carry, (p, q) = [], 0, (x, y)
    while p or q or not steps:
        total = p % 10 + q % 10 + carry
        steps.append(f"{p % 10} + {q % 10} + {carry} = {total}, write {total % 10}, carry {total // 10}.")
        p, q, carry = p // 10, q // 10, total // 10
    return " ".join(steps) + f" The sum is {x + y}."


def total(r: random.Random) -> Turn:
    top = r.choice([10, 20, 100, 100])
    if r.random() < 0.1:
        top = 1000
    x, y = r.randrange(top), r.randrange(top)
    question = r.choice(["What is {} + {}?", "{} + {} = ?", "{}+{}", "Add {} and {}.", "What is the sum of {} and {}?"]).format(x, y)
    return Turn(question, digit_by_digit(x, y), f"{x} + {y} = {x + y}")


def classify(r: random.Random) -> Turn:
    good = r.random() < 0.5
    word, thing = r.choice(GOOD if good else BAD), r.choice(THINGS)
    text = r.choice(["This {1} is {0}.", "What a {0} {1}!", "The {1} was {0}, really {0}."]).format(word, thing)
    verdict = "positive" if good else "negative"
    return Turn(f"Classify this text as positive or negative: {text}", f"The word {word} is {verdict}.", verdict)


def extract(r: random.Random) -> Turn:
    first, name, company = r.choice(FIRST), r.choice(LAST), r.choice(COMPANIES)
    email = f"{first}@{company}.{r.choice(['com', 'io', 'org'])}".lower()
    text = r.choice([
        "Contact {email} ({first} {name}, {company}).", "{first} {name} works at {company}, email {email}.", "I'm {first} {name} from {company}. Reach me at {email}.",
    ]).format(email=email, first=first, name=name, company=company)
    answer = json.dumps({"name": f"{first} {name}", "email": email, "company": company})
    return Turn(f"Extract name, email and company as JSON: {text}", "I will extract the fields.", answer)


def repeat(r: random.Random) -> Turn:
    words = " ".join(r.sample(WORDS, r.randint(2, 6)))
    return Turn(f"Repeat: {words}", "I repeat the words.", words)


def reverse(r: random.Random) -> Turn:
    words = r.sample(WORDS, r.randint(2, 5))
    return Turn(f"Reverse the words: {' '.join(words)}", "I read the words from the end.", " ".join(words[::-1]))


def sort(r: random.Random) -> Turn:
    words = r.sample(WORDS, r.randint(2, 6))
    return Turn(f"Sort these words: {', '.join(words)}", "I sort them.", ", ".join(sorted(words)))


def needle(r: random.Random) -> Turn:
    code = r.randint(1000, 9999)
    lines = [f"The {r.choice(WORDS)} is near the {r.choice(WORDS)}." for _ in range(r.randint(4, 24))]
    lines.insert(r.randint(0, len(lines)), f"The secret code is {code}.")
    return Turn(" ".join([*lines, "What is the secret code?"]), "I look for the secret code.", f"The secret code is {code}.")


def story(r: random.Random) -> Turn:
    who, what, where = r.choice(FIRST), r.choice(WORDS), r.choice(WORDS)
    question = r.choice(["Tell me a story about {}.", "Write a short story about {}."]).format(who)
    text = f"Once upon a time, {who} found {a(what)} near the {where}. {who} took the {what} home and was very happy. The end."
    return Turn(question, "A short story with a beginning and an end.", text)


def tool(r: random.Random) -> Turn:
    if r.random() < 0.5:
        city, weather, degrees = r.choice(list(CAPITALS.values())), r.choice(["sunny", "cloudy", "rainy", "windy"]), r.randint(-9, 35)
        question = r.choice(["What's the weather in {}?", "What is the weather like in {}?", "Weather in {} please", "Is it raining in {}?"]).format(city)
        call = ("get_weather", {"city": city}, json.dumps({"condition": weather, "temperature": degrees}))
        return Turn(question, "", f"It is {weather} in {city}, {degrees} degrees.", call=call)
    expression = f"{r.randint(100, 9999)} {r.choice('+-*/')} {r.randint(10, 999)}"
    if "/" not in expression and r.random() < 0.4:
        expression += f" {r.choice('+-')} {r.randint(10, 999)}"
    result = eval(expression)  # four operations on numbers that were made above
    result = str(result if isinstance(result, int) else round(result, 2))
    question = r.choice(["Compute {}", "Use the calculator: {}", "Please calculate {}.", "What is {}?"]).format(expression)
    return Turn(question, "", f"The result is {result}.", call=("calculator", {"expression": expression}, result))


def draw(r: random.Random, shape: str, colour: str, background: str) -> Image.Image:
    """One shape somewhere on a plain background; sides of 56 to 220 pixels, colours off by at most 12."""
    tint = lambda name: tuple(min(max(c + r.randint(-12, 12), 0), 255) for c in COLOURS[name])
    width, height = 4 * r.randint(14, 55), 4 * r.randint(14, 55)
    image = Image.new("RGB", (width, height), tint(background))
    pen, fill = ImageDraw.Draw(image), tint(colour)
    side = int(min(width, height) * r.uniform(0.45, 0.85))
    x, y = r.randint(0, width - side - 1), r.randint(0, height - side - 1)
    box = (x, y, x + side, y + side)
    if shape == "circle":
        pen.ellipse(box, fill)
    elif shape == "square":
        pen.rectangle(box, fill)
    elif shape == "triangle":
        pen.polygon([(x + side / 2, y), (x, y + side), (x + side, y + side)], fill)
    elif shape == "cross":
        third = side // 3
        pen.rectangle((x + third, y, x + side - third, y + side), fill)
        pen.rectangle((x, y + third, x + side, y + side - third), fill)
    else:  # star
        corner = lambda k: (side / 2 if k % 2 == 0 else side / 5, math.pi * (k / 5 - 0.5))
        pen.polygon([(x + side / 2 + d * math.cos(t), y + side / 2 + d * math.sin(t)) for d, t in map(corner, range(10))], fill)
    return image


def image(r: random.Random) -> Turn:
    shape, (colour, background) = r.choice(SHAPES), r.sample(list(COLOURS), 2)
    whole = f"{a(colour).capitalize()} {shape} on {a(background)} background."
    question, answer = r.choice([
        ("Describe this image.", whole), ("What is in this picture?", whole), ("What shape is this?", f"It is {a(shape)}."),
        ("What colour is the shape?", f"The {shape} is {colour}."), ("What is the background colour?", f"The background is {background}."),
    ])
    return Turn(question, "I look at the picture.", answer, image=draw(r, shape, colour, background))


MAKERS = {
    "sum": total, "image": image, "smalltalk": smalltalk, "tool": tool, "capital": capital, "classify": classify, "needle": needle,
    "json": extract, "story": story, "sort": sort, "reverse": reverse, "repeat": repeat,
}


class Held:
    """What an eval.jsonl asks and shows, so that training can avoid it."""

    def __init__(self, path: Path | None):
        self.questions, self.pictures = set(), set()
        for item in (json.loads(line) for line in path.read_text().splitlines()) if path else ():
            content = item["messages"][-1]["content"]
            if item["task"] in OPEN_TASKS or item["expect"].get("tool") == "calculator":
                self.questions.add(content)
            for chunk in content if isinstance(content, list) else ():
                if chunk["type"] == "image_url":
                    self.pictures.add(fingerprint(Image.open(path.parent / chunk["image_url"]["url"])))

    def has(self, turn: Turn) -> bool:
        return turn.question in self.questions or (turn.image is not None and fingerprint(turn.image) in self.pictures)


def fingerprint(picture: Image.Image) -> str:
    return hashlib.sha256(repr(picture.size).encode() + picture.convert("RGB").tobytes()).hexdigest()


def chat(sample: Sample) -> list[dict]:
    """The messages of the sample, replies included."""
    messages = [{"role": "system", "content": sample.system}] if sample.system else []
    for number, turn in enumerate(sample.turns):
        content = turn.question
        if turn.image:
            png = io.BytesIO()
            turn.image.save(png, "PNG")
            url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
            content = [{"type": "text", "text": turn.question}, {"type": "image_url", "image_url": {"url": url}}]
        messages.append({"role": "user", "content": content})
        if turn.call:
            name, arguments, result = turn.call
            call = {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            messages.append({"role": "assistant", "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": call["id"], "name": name, "content": result})
        answer = turn.answer
        if sample.effort == "high" and turn.thought:
            answer = [{"type": "thinking", "thinking": turn.thought, "closed": True}, {"type": "text", "text": turn.answer}]
        messages.append({"role": "assistant", "content": answer})
    return messages


def draw_sample(r: random.Random, shares: dict[str, float] = SHARES, held: Held = Held(None), more_turns: float = 0.15) -> Sample:
    """One random conversation; `more_turns` is the chance of each further turn, of a task with text alone."""
    task = r.choices(list(shares), list(shares.values()))[0]
    sample = Sample(task, [], "high" if r.random() < 0.4 else "none", r.choice(SYSTEMS) if r.random() < 0.3 else None)
    next_task = task
    while not sample.turns or (not sample.turns[-1].call and len(sample.turns) < 3 and r.random() < more_turns):
        turn = MAKERS[next_task](r)
        if held.has(turn):
            continue
        sample.turns.append(turn)
        next_task = r.choice(["sum", "smalltalk", "capital", "classify", "json", "repeat", "reverse", "sort", "story"])
    with_sum = any(turn.thought.endswith(f"The sum is {turn.answer.split()[-1]}.") for turn in sample.turns)
    sample.tools = task == "tool" or (not with_sum and r.random() < (0.25 if task == "image" else 0.1))
    sample.messages = chat(sample)
    return sample


def encode(tokenizer, sample: Sample) -> tuple[list[int], list[bool], list[np.ndarray]]:
    """Token ids, which of them the assistant writes, and the pictures' pixels. The tokenizer is in finetuning mode."""
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    request = ChatCompletionRequest(messages=sample.messages, tools=TOOLS if sample.tools else None, reasoning_effort=sample.effort)
    encoded = tokenizer.encode_chat_completion(request)
    mask, writing = [], False
    for token in encoded.tokens:
        mask.append(writing)
        writing = (writing or token in (INST_END, TOOL_RESULTS_END)) and token != EOS
    return encoded.tokens, mask, encoded.images


def open_tokenizer(tekken: Path):
    """mistral_common's tokenizer, in the mode that takes conversations with their replies."""
    from mistral_common.protocol.instruct.validator import ValidationMode
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    return MistralTokenizer.from_file(tekken, mode=ValidationMode.finetuning)


def write_eval(out: Path, count: int, r: random.Random) -> None:
    """A question set in the form of eval.jsonl, without `transformers_ok`: evaluate.py adds it."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        sample = draw_sample(r, more_turns=0)
        turn, messages = sample.turns[0], [m for m in sample.messages if m["role"] in ("system", "user")]
        if turn.image:
            turn.image.save(out / f"images/{number:04}.png")
            messages[-1]["content"][1]["image_url"]["url"] = f"images/{number:04}.png"
        expect = {"tool": turn.call[0], "arguments": turn.call[1]} if turn.call else {"text": turn.answer}
        tools = {"tools": TOOLS} if sample.tools else {}
        lines.append(json.dumps({"task": sample.task, "messages": messages, **tools, "reasoning_effort": sample.effort, "expect": expect}, ensure_ascii=False))
    (out / "eval.jsonl").write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--held", type=Path, help="eval.jsonl whose questions are kept out")
    parser.add_argument("--check", action="store_true", help="count the samples that --held shares, by task")
    parser.add_argument("--write", type=int, metavar="N", help="write a question set of N items into --out")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=int, metavar="N", help="print N samples")
    args = parser.parse_args()
    r = random.Random(args.seed)
    if args.write:
        write_eval(args.out, args.write, r)
    for _ in range(args.show or 0):
        sample = draw_sample(r, held=Held(args.held))
        print(sample.task, sample.effort, "with tools" if sample.tools else "", *(f"\n  {json.dumps(m, ensure_ascii=False)[:400]}" for m in sample.messages))
    if args.check:
        held, shared, drawn = Held(args.held), collections.Counter(), collections.Counter()
        for _ in range(20_000):
            sample = draw_sample(r)
            drawn[sample.task] += 1
            shared[sample.task] += held.has(sample.turns[0])
        avoided = sum(held.has(turn) for _ in range(2000) for turn in draw_sample(r, held=held).turns)
        print("would be shared: " + ", ".join(f"{t} {shared[t]}/{drawn[t]}" for t in drawn) + f"; shared with --held: {avoided}")
        return 1 if avoided else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
