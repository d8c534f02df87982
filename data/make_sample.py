"""Draw the sample set: one small image per emoji, in class folders inside split folders.

Every choice comes from the split and the position of an emoji in its list, never from its class,
so the classes have exactly the same backgrounds, placements and file types: only what is drawn
tells them apart. The same Pillow writes the same bytes each time.
"""

import argparse
import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STRIKE = 109  # The font holds bitmaps, and at this one size only.
GLYPH_WIDTH, GLYPH_HEIGHT = 136, 128
SIDE = 128
JPEG_QUALITY = 90
PNG_EVERY = 12

# One code point each, no variation selectors. No emoji stands in two lists, and those that could
# go either way (a crab, a lobster) stand in none.
EMOJI = {
    "train": {
        "animals": "🐶🐱🐭🐹🐰🦊🐻🐼🐯🦁🐮🐷🐸🐵🐔🐧🦉🦅🐢🐍🐙🐠🐬🐳🐘🦒🦘🐝",
        "food": "🍎🍌🍇🍉🍊🍋🍍🍒🍑🍓🥑🥦🥕🌽🍆🥔🍞🥐🧀🍔🍟🍕🌭🌮🍜🍩🍪🎂",
        "vehicles": "🚗🚕🚌🚎🏎🚓🚑🚒🚐🚚🚜🚲🛵🏍🚂🚄🚇🚊🚝🚞🚟🚡🚁✈🚀🚤⛵🚢",
    },
    "validation": {
        "animals": "🐺🐨🐴🦆🦎🦈🐪🦍🦔🦋🦓🐑",
        "food": "🍐🥝🥭🥒🥨🥞🥪🌯🍝🍦🧁🍣",
        "vehicles": "🚙🛻🚛🛺🛴🚆🚈🚃🛩🛶⛴🛥",
    },
}


def image_name(emoji: str) -> str:
    """Return the Unicode name of an emoji as a file stem: lower-case ASCII with hyphens."""
    return unicodedata.name(emoji).lower().replace(" ", "-")


def draw(emoji: str, font: ImageFont.FreeTypeFont, chance: random.Random) -> Image.Image:
    """Draw one emoji, a little moved and scaled, on a plain background.

    Args:
        emoji: A single code point that the font has.
        font: Noto Color Emoji at its bitmap size.
        chance: Where colour, scale and place come from.

    Returns:
        An RGB image, `SIDE` pixels square.
    """
    background = (chance.randint(110, 240), chance.randint(110, 240), chance.randint(110, 240))
    side = chance.randint(GLYPH_WIDTH + 4, GLYPH_WIDTH + 44)
    corner = (chance.randint(0, side - GLYPH_WIDTH), chance.randint(0, side - GLYPH_HEIGHT))
    # Drawn on the background itself: drawn on transparency first, soft edges would come out dark.
    canvas = Image.new("RGB", (side, side), background)
    ImageDraw.Draw(canvas).text(corner, emoji, font=font, embedded_color=True)
    return canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def write_class(folder: Path, split: str, emoji: str, font: ImageFont.FreeTypeFont) -> int:
    """Write the images of one class of one split and return how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    for position, character in enumerate(emoji):
        image = draw(character, font, random.Random(f"{split} {position}"))
        path = folder / image_name(character)
        if position % PNG_EVERY == PNG_EVERY - 1:
            image.save(path.with_suffix(".png"), optimize=True)
        else:
            image.save(path.with_suffix(".jpg"), quality=JPEG_QUALITY)
    return len(emoji)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description="Draw the sample set of labelled images.")
    parser.add_argument(
        "output",
        type=Path,
        nargs="?",
        default=Path(__file__).parent,
        help="folder that gets train/ and validation/ (default: the folder of this script)",
    )
    parser.add_argument(
        "--font", type=Path, default=FONT, help="NotoColorEmoji.ttf (default: %(default)s)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw every image of every class of every split."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if not options.font.is_file():
        parser.error(f"{options.font}: no such font; install Noto Color Emoji or give --font PATH")
    # The basic layout is in every Pillow; with the optional one, results could differ by machine.
    font = ImageFont.truetype(options.font, STRIKE, layout_engine=ImageFont.Layout.BASIC)
    for split, classes in EMOJI.items():
        for class_name, emoji in classes.items():
            count = write_class(options.output / split / class_name, split, emoji, font)
            print(f"{split}/{class_name}: {count} images")


if __name__ == "__main__":
    main()
