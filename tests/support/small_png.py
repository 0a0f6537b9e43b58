"""Screenshots as small PNG files: with a palette of at most 256 colours, which the pages nearly have by themselves."""

import base64
import struct
import zlib
from typing import Any

_REDUCE = """async (data) => {
  const image = new Image();
  image.src = "data:image/png;base64," + data;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height), context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height).data;
  const number = new Map(), sums = [], indexes = new Uint8Array(pixels.length / 4);
  for (let drop = 0; ; drop++) {
    number.clear(); sums.length = 0;
    let fits = true;
    for (let at = 0; at < pixels.length && fits; at += 4) {
      const key = ((pixels[at] >> drop) << 16) | ((pixels[at + 1] >> drop) << 8) | (pixels[at + 2] >> drop);
      let one = number.get(key);
      if (one === undefined) {
        fits = sums.length < 256;
        number.set(key, (one = sums.length));
        sums.push([0, 0, 0, 0]);
      }
      if (!fits) break;
      const sum = sums[one];
      sum[0] += pixels[at]; sum[1] += pixels[at + 1]; sum[2] += pixels[at + 2]; sum[3]++;
      indexes[at / 4] = one;
    }
    if (fits) break;
  }
  let text = "";
  for (let at = 0; at < indexes.length; at += 32768) text += String.fromCharCode(...indexes.subarray(at, at + 32768));
  const palette = sums.flatMap((sum) => [0, 1, 2].map((place) => Math.round(sum[place] / sum[3])));
  return [image.width, image.height, palette, btoa(text)];
}"""


def small_png(page: Any, png: bytes) -> bytes:
    """The picture with a palette. `page`: a page of Playwright at about:blank, which reduces the colours."""
    width, height, palette, text = page.evaluate(_REDUCE, base64.b64encode(png).decode())
    indexes = base64.b64decode(text)
    rows = b"".join(b"\0" + indexes[row * width : (row + 1) * width] for row in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"PLTE", bytes(palette)), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
