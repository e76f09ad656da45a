#!/usr/bin/env python3
"""Makes tests/golden/vision: small pictures of many kinds, and what mistral_common makes of them.

- grids.json: [image_size, patch_size, merge_size, width, height, cols, rows] for a few hundred sizes.
- pixels.json: synthetic pictures (rgb of x, y by a formula), the sum and samples of their normalised pixels.
- files/: pictures; files.jsonl says the upright RGB bytes of each (Pillow, mistral_common's white background) and
  how far a decoder may be off. EXIF orientation is applied, which mistral_common does not do.
- bad/: files that no picture is in; bad.jsonl says what the error must contain.

Needs mistral_common with Pillow and OpenCV.
"""

import argparse
import base64
import io
import json
import random
import struct
import zlib
from pathlib import Path

import numpy as np
from mistral_common.tokens.tokenizers.image import ImageConfig, ImageEncoder, SpecialImageIDs, _convert_to_rgb, transform_image
from PIL import Image, ImageOps

CONFIGS = [(1540, 14, 2), (1540, 14, 1), (1024, 16, 1), (1000, 14, 2), (28, 14, 2)]
SYNTHETIC = [(1, 1), (2, 2), (1, 40), (40, 1), (20, 20), (28, 28), (100, 50), (57, 57), (640, 5), (3, 700), (3000, 8)]
N_SAMPLES = 60


# --- what mistral_common does ---


def grid(width, height, config=CONFIGS[0]):
    """Columns and rows of tokens."""
    size, patch, merge = config
    encoder = ImageEncoder(ImageConfig(patch, size, merge), SpecialImageIDs(img=10, img_break=12, img_end=13))
    return encoder._image_to_num_tokens(type("Size", (), {"size": (width, height)}))


def upright_rgb(image):
    """The RGB picture that gust should see."""
    return _convert_to_rgb(ImageOps.exif_transpose(image))


def normalised(image, config=CONFIGS[0]):
    """[3, height, width] f32 of an upright picture."""
    cols, rows = grid(*image.size, config)
    side = config[1] * config[2]
    return transform_image(image, (cols * side, rows * side))


def random_size(rng):
    """Sizes of all magnitudes, many of them near where rounding decides."""
    if rng.random() < 0.3:
        return tuple(max(1, 28 * rng.randrange(1, 120) + rng.choice([-1, 0, 1])) for _ in range(2))
    if rng.random() < 0.3:
        return tuple(max(1, 770 * rng.randrange(1, 14) + rng.choice([-1, 0, 0, 1])) for _ in range(2))
    return tuple(max(1, int(2 ** rng.uniform(0, rng.choice([8, 12, 16])))) for _ in range(2))


def synthetic(width, height):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = [(7 * x + 3 * y) % 256, (x * x + 5 * y) % 256, (11 * x * y) % 256]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


# --- files ---


def photo(width, height, channels=3):
    """Smooth colours with edges and a little noise."""
    rng = np.random.default_rng(width * 1000 + height + channels)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    planes = [128 + 100 * np.sin(3 * x + i) * np.cos(4 * y - i) + 40 * ((x + y * (i + 1)) % 0.5 > 0.25) for i in range(channels)]
    array = np.clip(np.stack(planes, -1) + rng.normal(0, 3, (height, width, channels)), 0, 255).astype(np.uint8)
    return Image.fromarray(array.squeeze())


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, depth, color_type, rows, extra=b"", interlace=0, after=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, interlace)
    data = zlib.compress(rows, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + after + chunk(b"IEND", b"")


def png_rows(width, height, bits, seed, max_value=None):
    """Random rows of `bits` per pixel, unfiltered."""
    rng = random.Random(seed)
    n = (width * bits + 7) // 8
    byte = (lambda: rng.randrange(256)) if max_value is None else (lambda: rng.randrange(max_value))
    return b"".join(b"\0" + bytes(byte() for _ in range(n)) for _ in range(height))


def adam7(width, height, n, seed):
    rng = random.Random(seed)
    rows = b""
    for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]:
        columns = len(range(x0, width, dx))
        for _ in range(y0, height, dy):
            if columns:
                rows += b"\0" + bytes(rng.randrange(256) for _ in range(columns * n))
    return rows


def gif_frame(left, top, width, height, indices, flags=0):
    """A frame of 7-bit indices, its codes never compressed."""
    bits, codes = 0, []
    for i, index in enumerate(indices):
        if i % 100 == 0:
            codes.append(128)
        codes.append(index)
    codes.append(129)
    for i, code in enumerate(codes):
        bits |= code << (8 * i)
    data = bits.to_bytes(len(codes), "little")
    blocks = b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255))
    return b"," + struct.pack("<HHHHB", left, top, width, height, flags) + b"\x07" + blocks + b"\0"


def gif(width, height, frames, transparent=None, background=0):
    palette = bytes(random.Random(5).randrange(256) for _ in range(3 * 128))
    control = b""
    if transparent is not None:
        control = b"!\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    header = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF6, background, 0)
    return header + palette + control + b"".join(frames) + b";"


def bmp(width, height, bits, rows, compression=0, palette=b"", masks=b"", header_size=40):
    offset = 14 + header_size + len(palette) + (len(masks) if header_size == 40 else 0)
    info = struct.pack("<IiiHHIIiiII", header_size, width, height, 1, bits, compression, len(rows), 2835, 2835, len(palette) // 4, 0)
    info += masks
    info += b"\0" * (header_size - len(info)) if header_size > 40 else b""
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + info + palette + rows


def exif(orientation, order="<"):
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)


def png_files():
    rng = random.Random(3)
    palette = chunk(b"PLTE", bytes(rng.randrange(256) for _ in range(48)))
    alphas = chunk(b"tRNS", bytes(rng.randrange(256) for _ in range(9)))
    for depth in (1, 2, 4, 8):
        yield f"grey{depth}.png", png(13, 7, depth, 0, png_rows(13, 7, depth, depth))
    # Pillow makes nearly all of it white; gust drops the low byte, as with 16-bit colours.
    deep = png_rows(13, 7, 16, 16)
    shallow = b"".join(b"\0" + deep[27 * y + 1 : 27 * (y + 1) : 2] for y in range(7))
    yield "grey16.png", png(13, 7, 16, 0, deep), png(13, 7, 8, 0, shallow)
    yield "grey8-trns.png", png(13, 7, 8, 0, png_rows(13, 7, 8, 5, 4), chunk(b"tRNS", b"\0\2"))
    yield "grey1-trns.png", png(13, 7, 1, 0, png_rows(13, 7, 1, 5), chunk(b"tRNS", b"\0\1"))
    for depth in (1, 2, 4):
        yield f"palette{depth}-trns.png", png(13, 7, depth, 3, png_rows(13, 7, depth, depth), palette + alphas)
    yield "palette8.png", png(13, 7, 8, 3, png_rows(13, 7, 8, 1, 16), palette)
    yield "palette8-trns.png", png(13, 7, 8, 3, png_rows(13, 7, 8, 1, 16), palette + alphas)
    for depth in (8, 16):
        yield f"rgb{depth}.png", png(13, 7, depth, 2, png_rows(13, 7, 3 * depth, 1))
        yield f"rgb{depth}-trns.png", png(13, 7, depth, 2, png_rows(13, 7, 3 * depth, 1, 2), chunk(b"tRNS", b"\0\1\0\1\0\1"))
        yield f"rgba{depth}.png", png(13, 7, depth, 6, png_rows(13, 7, 4 * depth, 1))
        yield f"grey-alpha{depth}.png", png(13, 7, depth, 4, png_rows(13, 7, 2 * depth, 1))
    yield "interlaced-rgba.png", png(13, 7, 8, 6, adam7(13, 7, 4, 9), interlace=1)
    yield "interlaced-rgb.png", png(13, 7, 8, 2, adam7(13, 7, 3, 9), interlace=1)
    frames = [photo(12, 9), photo(12, 9).transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    yield "animated.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    bomb = zlib.compress(bytes(64 << 20), 9)
    rows = png_rows(5, 4, 24, 1)
    plain = png(5, 4, 8, 2, rows)  # Pillow refuses some of what follows
    yield "bomb-ztxt.png", png(5, 4, 8, 2, rows, chunk(b"zTXt", b"a\0\0" + bomb)), plain
    yield "bomb-itxt.png", png(5, 4, 8, 2, rows, chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)), plain
    yield "bomb-icc.png", png(5, 4, 8, 2, rows, chunk(b"iCCP", b"a\0\0" + bomb)), plain
    yield "bomb-after.png", png(5, 4, 8, 2, rows, after=chunk(b"zTXt", b"a\0\0" + bomb)), plain
    yield "long-idat.png", png(5, 4, 8, 2, rows + bytes(16 << 20)), plain
    yield "bad-ancillary-crc.png", png(5, 4, 8, 2, rows, b"\0\0\0\1tEXtaXXXX"), plain


def jpeg_files():
    image = photo(37, 21)
    for name, subsampling in [("444", 0), ("422", 1), ("420", 2)]:
        yield f"{name}.jpg", saved(image, "JPEG", quality=90, subsampling=subsampling)
        yield f"{name}-progressive.jpg", saved(image, "JPEG", quality=80, subsampling=subsampling, progressive=True)
    yield "411.jpg", saved(image, "JPEG", quality=90, subsampling="4:1:1")
    yield "restart.jpg", saved(image, "JPEG", quality=90, restart_marker_blocks=2)
    yield "grey.jpg", saved(image.convert("L"), "JPEG", quality=90)
    yield "grey-progressive.jpg", saved(image.convert("L"), "JPEG", quality=90, progressive=True)
    yield "rgb-adobe.jpg", saved(image, "JPEG", quality=90, keep_rgb=True)
    cmyk = saved(Image.frombytes("CMYK", (37, 21), photo(37, 21, 4).tobytes()), "JPEG", quality=92)
    yield "cmyk-adobe.jpg", cmyk
    at = cmyk.index(b"Adobe")
    yield "ycck-adobe.jpg", cmyk[: at + 11] + b"\2" + cmyk[at + 12 :]
    yield "trailer.jpg", saved(image, "JPEG", quality=70) + b"\xff\xd8\xff junk"
    yield "tiny.jpg", saved(photo(2, 3), "JPEG", quality=90)
    yield "icc.jpg", saved(image, "JPEG", quality=90, icc_profile=b"\0" * 3000)


def other_files():
    image, alpha = photo(37, 21), photo(37, 21, 4)
    yield "lossy.webp", saved(image, "WEBP", quality=80)
    yield "lossy-odd.webp", saved(photo(17, 33), "WEBP", quality=95)
    yield "lossy-alpha.webp", saved(alpha, "WEBP", quality=80)
    yield "lossless.webp", saved(image, "WEBP", lossless=True)
    yield "lossless-alpha.webp", saved(alpha, "WEBP", lossless=True, exact=True)
    yield "animated.webp", saved(image, "WEBP", save_all=True, append_images=[alpha.convert("RGB")], lossless=True)
    yield "animated-alpha.webp", saved(alpha, "WEBP", save_all=True, append_images=[image.convert("RGBA")], lossless=True)
    rng = random.Random(8)
    indices = [rng.randrange(127) for _ in range(13 * 7)]
    yield "plain.gif", gif(13, 7, [gif_frame(0, 0, 13, 7, indices)])
    yield "transparent.gif", gif(13, 7, [gif_frame(0, 0, 13, 7, [i % 8 for i in indices])], transparent=3)
    yield "interlaced.gif", gif(13, 7, [gif_frame(0, 0, 13, 7, indices, 0x40)])
    yield "animated.gif", gif(13, 7, [gif_frame(0, 0, 13, 7, indices), gif_frame(1, 1, 3, 2, [5] * 6)])
    yield "small-frame-transparent.gif", gif(13, 7, [gif_frame(2, 3, 5, 3, [i % 8 for i in indices[:15]])], transparent=3)
    # What no frame covers is transparent, as in browsers; Pillow takes the palette's first colour.
    plain = gif(13, 7, [gif_frame(0, 0, 13, 7, [indices[5 * (y - 3) + x - 2] if 2 <= x < 7 and 3 <= y < 6 else 127 for y in range(7) for x in range(13)])], transparent=127)
    yield "small-frame.gif", gif(13, 7, [gif_frame(2, 3, 5, 3, indices[:15])], background=9), plain
    colors = b"".join(bytes(rng.randrange(256) for _ in range(3)) + b"\0" for _ in range(16))
    row = lambda bits: bytes(rng.randrange(256) for _ in range((13 * bits + 31) // 32 * 4))
    for bits, n in [(1, 2), (4, 16)]:
        yield f"palette{bits}.bmp", bmp(13, 7, bits, b"".join(row(bits) for _ in range(7)), palette=colors[: 4 * n])
    yield "palette8.bmp", saved(image.quantize(16), "BMP")
    yield "rgb555.bmp", bmp(13, 7, 16, b"".join(row(16) for _ in range(7)))
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    yield "rgb565.bmp", bmp(13, 7, 16, b"".join(row(16) for _ in range(7)), compression=3, masks=masks)
    yield "rgb24.bmp", saved(image, "BMP")
    yield "top-down.bmp", bmp(13, -7, 24, b"".join(row(24) for _ in range(7)))
    yield "rgb32.bmp", bmp(13, 7, 32, b"".join(row(32) for _ in range(7)))
    yield "rgba32.bmp", saved(alpha, "BMP")
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    yield "rgba32-v4.bmp", bmp(13, 7, 32, b"".join(row(32) for _ in range(7)), 3, masks=masks, header_size=108)
    runs = b"".join(bytes([13, y, 0, 0]) for y in range(7)) + b"\0\1"
    yield "rle8.bmp", bmp(13, 7, 8, runs, compression=1, palette=colors)


def oriented_files():
    image = photo(16, 9)
    lossless = [("png", {}), ("webp", {"lossless": True})]
    for orientation in range(1, 9):
        data = exif(orientation, "<" if orientation % 2 else ">")
        yield f"exif{orientation}.jpg", saved(image, "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0" + data)
        for kind, options in lossless:
            yield f"exif{orientation}.{kind}", saved(image, kind.upper(), exif=data, **options)
    yield "exif9.png", saved(image, "PNG", exif=exif(9))


# Rounding of other decoders than Pillow's: JPEG's and lossy WebP's may differ a little.
MAX_DIFF = {"jpg": 4, "webp": 0}
MAX_DIFFS = {"tiny.jpg": 16, "rgb555.bmp": 1, "rgb565.bmp": 1}


def bad_files():
    """Name, bytes and what the message must contain."""
    ihdr = lambda w, h: b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
    bomb = ihdr(60000, 60000) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    yield "60000.png", bomb, "60000x60000"
    yield "41mp.png", ihdr(8200, 5000) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""), "40 megapixels"
    yield "deep.png", png(6300, 6300, 16, 6, b""), "256 MiB"
    yield "0x0.png", ihdr(0, 0) + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "PNG"
    yield "header-only.png", ihdr(5, 5), "PNG"
    good = png(5, 4, 8, 2, png_rows(5, 4, 24, 1))
    yield "bad-crc.png", good[:45] + bytes([good[45] ^ 1]) + good[46:], "damaged"
    yield "bad-ihdr-crc.png", good[:30] + bytes([good[30] ^ 1]) + good[31:], "damaged"
    yield "short-idat.png", png(5, 40, 8, 2, png_rows(5, 4, 24, 1)), "PNG"
    # A palette that is no whole number of colours makes the png crate panic.
    torn = chunk(b"PLTE", bytes(49)) + chunk(b"tRNS", bytes(9))
    yield "torn-palette.png", png(13, 7, 1, 3, png_rows(13, 7, 1, 1), torn), "its decoder gave up"
    yield "65535.gif", gif(65535, 65535, [gif_frame(0, 0, 1, 1, [1])]), "65535x65535"
    yield "huge-frame.gif", gif(2, 2, [gif_frame(0, 0, 65535, 65535, [1])]), "GIF"
    yield "no-frame.gif", gif(5, 5, []), "GIF"
    yield "0x0.gif", gif(0, 0, [gif_frame(0, 0, 0, 0, [])]), "0x0"
    jpeg = saved(photo(37, 21), "JPEG", quality=80)
    sof = jpeg.index(b"\xff\xc0")
    yield "65500.jpg", jpeg[: sof + 5] + struct.pack(">HH", 65500, 65500) + jpeg[sof + 9 :], "65500x65500"
    yield "0x0.jpg", jpeg[: sof + 5] + bytes(4) + jpeg[sof + 9 :], "JPEG"
    yield "12-bit.jpg", jpeg[: sof + 4] + b"\x0c" + jpeg[sof + 5 :], "12 bits a channel"
    yield "arithmetic.jpg", jpeg[: sof + 1] + b"\xc9" + jpeg[sof + 2 :], "arithmetic coding"
    yield "lossless.jpg", jpeg[: sof + 1] + b"\xc3" + jpeg[sof + 2 :], "lossless coding"
    yield "no-scan.jpg", b"\xff\xd8\xff\xe0\0\x04ab\xff\xd9", "JPEG"
    progressive = saved(photo(37, 21), "JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xda")
    yield "scans.jpg", progressive[:last] + progressive[last:-2] * 300 + b"\xff\xd9", "scans"
    webp = saved(photo(5, 4), "WEBP", lossless=True)
    yield "16383.webp", webp[:21] + struct.pack("<I", 16382 | 16382 << 14) + webp[25:], "16383x16383"
    yield "no-chunk.webp", b"RIFF\x04\0\0\0WEBP", "WebP"
    yield "60000.bmp", bmp(60000, 60000, 24, b""), "60000x60000"
    yield "0x0.bmp", bmp(0, 0, 24, b""), "BMP"
    yield "negative.bmp", bmp(-5, 5, 24, bytes(100)), "BMP"
    yield "no-rows.bmp", bmp(5, 5, 24, b""), "BMP"
    yield "23169.tga", struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 23169, 23169, 32, 0), "TGA is unsupported"


# --- writing ---


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))


def all_files():
    for make in (png_files, jpeg_files, other_files, oriented_files):
        yield from make()


def generate(out):
    for folder in ("files", "bad"):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for path in (out / folder).iterdir():
            path.unlink()
    rows = []
    for name, data, *plain in all_files():
        (out / "files" / name).write_bytes(data)
        rgb = upright_rgb(Image.open(io.BytesIO(plain[0] if plain else data)))
        max_diff = MAX_DIFFS.get(name, MAX_DIFF.get(name.split(".")[-1], 0))
        text = base64.b64encode(rgb.tobytes()).decode()
        rows.append({"file": name, "width": rgb.width, "height": rgb.height, "max_diff": max_diff, "rgb": text})
    write_lines(out / "files.jsonl", rows)
    rows = []
    for name, data, message in bad_files():
        (out / "bad" / name).write_bytes(data)
        rows.append({"file": name, "message": message})
    write_lines(out / "bad.jsonl", rows)

    rng = random.Random(1)
    sizes = [(1, 1), (1540, 1540), (1541, 1), (20000, 10), (10, 20000), (65535, 610), (1920, 245), (4000, 3000)]
    sizes += [random_size(rng) for _ in range(400)]
    grids = [[*config, w, h, *grid(w, h, config)] for i, (w, h) in enumerate(sizes) for config in [CONFIGS[0 if i % 3 else i % 5]]]
    (out / "grids.json").write_text("[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in grids) + "\n]\n")

    rows = []
    for width, height in SYNTHETIC:
        pixels = normalised(synthetic(width, height))
        flat = pixels.reshape(-1)
        at = sorted(rng.sample(range(flat.size), N_SAMPLES))
        samples = [[i, round(float(flat[i]), 6)] for i in at]
        shape = [pixels.shape[2], pixels.shape[1]]
        rows.append({"size": [width, height], "resized": shape, "sum": float(flat.sum(dtype=np.float64)), "samples": samples})
    write_lines(out / "pixels.jsonl", rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    generate(parser.parse_args().out)


if __name__ == "__main__":
    main()
