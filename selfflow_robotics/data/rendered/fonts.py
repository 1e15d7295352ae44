"""Fonts that come with packages: Pillow's own, and those of matplotlib (the extra "fonts").

The files are read from the packages' folders; matplotlib is not imported.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from selfflow_robotics.errors import UserError, unknown

OWN = "aileron"  # Pillow's
FILES = {
    "dejavu-sans": "DejaVuSans.ttf",
    "dejavu-bold": "DejaVuSans-Bold.ttf",
    "dejavu-serif": "DejaVuSerif.ttf",
    "dejavu-mono": "DejaVuSansMono.ttf",
    "stix": "STIXGeneral.ttf",
}
NAMES = (OWN, *FILES)


def check_fonts(names: tuple[str, ...]) -> None:
    """Raise UserError for an unknown or missing font, or for none at all."""
    if not names:
        raise UserError(f"fonts is empty; there are: {', '.join(NAMES)}")
    for name in names:
        load_font(name, 16)


@cache
def load_font(name: str, px: int) -> ImageFont.FreeTypeFont:
    """The font, `px` high. Raises UserError if it is unknown or its package is missing."""
    if name == OWN:
        font = ImageFont.load_default(px)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise UserError("this Pillow was built without FreeType; reinstall it with pip")
        return font
    if name not in FILES:
        raise unknown("font", name, NAMES)
    package = find_spec("matplotlib")
    if package is None or package.origin is None:
        raise UserError(
            f"the font {name} comes with matplotlib: pip install 'selfflow_robotics[fonts]', or "
            f"choose Pillow's: words.fonts=[{OWN}]"
        )
    file = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / FILES[name]
    try:
        return ImageFont.truetype(file, px)
    except OSError as error:
        raise UserError(f"cannot read the font {file} ({error}); reinstall matplotlib") from error
