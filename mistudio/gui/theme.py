"""Colours and sizes of the window: two palettes, the scale, and who announces their change."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QCoreApplication, QObject, Signal
from shiboken6 import isValid

THEMES = ("dark", "light", "system")


@dataclass(frozen=True)
class Colors:
    """Every colour by role, as `#RRGGBB`. Cards: lists and forms, settings and tiles, nested."""

    name: str
    page: str
    card: str
    card_settings: str
    card_nested: str
    border_soft: str
    border: str
    text: str
    label: str
    muted: str
    emerald: str
    emerald_fill: str
    blue: str
    blue_fill: str
    purple: str
    purple_fill: str
    yellow: str
    yellow_fill: str
    red: str
    red_fill: str
    info_fill: str
    info_border: str
    ready_fill: str
    ready_text: str
    primary: str
    primary_hover: str
    primary_pressed: str
    disabled_fill: str
    disabled_text: str
    hover: str
    pressed: str
    active_fill: str
    active_border: str
    danger: str
    danger_hover: str
    danger_pressed: str
    input: str
    input_border: str
    input_hover: str
    focus: str
    track: str
    toggle_off: str
    scroll: str
    table_header: str
    table_hover: str
    chip_text_table: str
    chip_text_detail: str
    chip_text_strong: str
    on_fill: str = "#FFFFFF"
    highlight: str = "#10B981"
    teal: str = "#14B8A6"
    cyan: str = "#06B6D4"
    indigo: str = "#6366F1"
    green: str = "#22C55E"
    amber: str = "#EAB308"

    def role(self, name: str) -> str:
        """Text colour of a role: emerald, blue, purple, yellow, red, text, label or muted."""
        return str(getattr(self, name))

    def fill(self, name: str) -> str:
        """Fill colour that belongs to a role's text colour."""
        return str(getattr(self, f"{name}_fill", self.role(name)))


DARK = Colors(
    name="dark",
    page="#0F1629",
    card="#1E293B",
    card_settings="#0F172A",
    card_nested="#162032",
    border_soft="#1E293B",
    border="#334155",
    text="#F1F5F9",
    label="#CBD5E1",
    muted="#94A3B8",
    emerald="#34D399",
    emerald_fill="#047857",
    blue="#60A5FA",
    blue_fill="#2563EB",
    purple="#C084FC",
    purple_fill="#9333EA",
    yellow="#FACC15",
    yellow_fill="#A16207",
    red="#F87171",
    red_fill="#DC2626",
    info_fill="#0D1836",
    info_border="#0F1E4C",
    ready_fill="#082229",
    ready_text="#34D399",
    primary="#047857",
    primary_hover="#065F46",
    primary_pressed="#064E3B",
    disabled_fill="#334155",
    disabled_text="#A8B3C4",
    hover="#334155",
    pressed="#475569",
    active_fill="#0E2732",
    active_border="#10B981",
    danger="#DC2626",
    danger_hover="#B91C1C",
    danger_pressed="#991B1B",
    input="#0F172A",
    input_border="#334155",
    input_hover="#475569",
    focus="#10B981",
    track="#334155",
    toggle_off="#475569",
    scroll="#475569",
    table_header="#172032",  # #1E293B at 50 % over the page
    table_hover="#252F42",  # #334155 at 30 % over the card
    chip_text_table="#CBD5E1",
    chip_text_detail="#E2E8F0",
    chip_text_strong="#FFFFFF",
)

LIGHT = Colors(
    name="light",
    page="#F1F5F9",
    card="#FFFFFF",
    card_settings="#FFFFFF",
    card_nested="#F8FAFC",
    border_soft="#E2E8F0",
    border="#CBD5E1",
    text="#0F172A",
    label="#334155",
    muted="#475569",
    emerald="#047857",
    emerald_fill="#047857",
    blue="#1D4ED8",
    blue_fill="#2563EB",
    purple="#7E22CE",
    purple_fill="#9333EA",
    yellow="#854D0E",
    yellow_fill="#A16207",
    red="#B91C1C",
    red_fill="#DC2626",
    info_fill="#EFF6FF",
    info_border="#BFDBFE",
    ready_fill="#D1FAE5",
    ready_text="#065F46",
    primary="#047857",
    primary_hover="#065F46",
    primary_pressed="#064E3B",
    disabled_fill="#E2E8F0",
    disabled_text="#475569",
    hover="#E2E8F0",
    pressed="#CBD5E1",
    active_fill="#D1FAE5",
    active_border="#10B981",
    danger="#DC2626",
    danger_hover="#B91C1C",
    danger_pressed="#991B1B",
    input="#FFFFFF",
    input_border="#CBD5E1",
    input_hover="#475569",
    focus="#047857",
    track="#E2E8F0",
    toggle_off="#475569",
    scroll="#7E8CA0",
    table_header="#F1F5F9",
    table_hover="#F6F8FB",
    chip_text_table="#0F172A",
    chip_text_detail="#0F172A",
    chip_text_strong="#0F172A",
)

ACCENTS = ("#14B8A6", "#3B82F6", "#A855F7")  # steering cards, repeating
SERIES = ("emerald", "blue", "purple", "yellow", "red", "muted")  # curves, in order


def mix(first: str, second: str, share: float) -> str:
    """An opaque colour: `share` of `first` over `second`, both `#RRGGBB`."""
    pairs = ((int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a * share + b * (1 - share)):02X}" for a, b in pairs)


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio of two `#RRGGBB` colours, 1 to 21."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    def linear(part: int) -> float:
        value = part / 255
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(color[i : i + 2], 16)) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


class Appearance(QObject):
    """The look in force: colours, scale, and whether the display is remote (then nothing moves).

    Widgets that paint themselves read it at paint time and connect `changed` to `update`.
    """

    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.colors = DARK
        self.font_px = 14
        self.remote = False

    def px(self, length: float) -> int:
        """A length given for a 16-px body font, in pixels of the font in force (at least 1)."""
        return max(1, round(length * self.font_px / 16))

    def set_remote(self, on: bool) -> None:
        """Take the profile of a remote display, or leave it; announces only a real change."""
        if on != self.remote:
            self.remote = on
            self.changed.emit()

    def set(self, colors: Colors, font_px: int) -> None:
        """Take another palette and body font size; announces only a real change."""
        if (colors, font_px) != (self.colors, self.font_px):
            self.colors, self.font_px = colors, font_px
            self.changed.emit()


_current: Appearance | None = None


def appearance() -> Appearance:
    """The application's one `Appearance`; made on first use, owned by the application."""
    global _current
    if _current is None or not isValid(_current):
        _current = Appearance(QCoreApplication.instance())
    return _current
