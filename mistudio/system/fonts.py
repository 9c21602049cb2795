"""Which scripts the installed fonts can write: Qt brings no fonts and draws boxes without them."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

CJK = "漢あ한"  # Han, Hiragana, Hangul
EMOJI = "😀"
FC_MATCH = 0


class _FontSet(ctypes.Structure):
    _fields_ = (
        ("nfont", ctypes.c_int),
        ("sfont", ctypes.c_int),
        ("fonts", ctypes.POINTER(ctypes.c_void_p)),
    )


class Fonts(NamedTuple):
    """What fontconfig knows: how many fonts there are and which characters none of them has."""

    number: int
    lacking: str


def installed_fonts(characters: str = CJK + EMOJI) -> Fonts | None:
    """The fonts of this machine; None if fontconfig, which Qt asks too, is not there."""
    try:
        fc = ctypes.CDLL("libfontconfig.so.1")
    except OSError:
        return None
    fc.FcConfigGetCurrent.restype = ctypes.c_void_p
    fc.FcConfigGetFonts.restype = ctypes.POINTER(_FontSet)
    fc.FcConfigGetFonts.argtypes = (ctypes.c_void_p, ctypes.c_int)
    fc.FcPatternGetCharSet.argtypes = (
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_void_p),
    )
    fc.FcCharSetHasChar.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    found = fc.FcConfigGetFonts(fc.FcConfigGetCurrent(), 0)
    if not found:
        return Fonts(0, characters)
    count, fonts = found.contents.nfont, found.contents.fonts
    lacking = set(characters)
    covered = ctypes.c_void_p()
    for number in range(count):
        if not lacking:
            break
        if fc.FcPatternGetCharSet(fonts[number], b"charset", 0, ctypes.byref(covered)) == FC_MATCH:
            lacking -= {c for c in lacking if fc.FcCharSetHasChar(covered, ord(c))}
    return Fonts(count, "".join(c for c in characters if c in lacking))
