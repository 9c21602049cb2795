"""The style sheet: every control in every state, from one `Colors`.

Variants are set by property: `variant` on buttons (primary, secondary, danger, toggle, ghost,
link), `role` on labels (title, section, card, label, muted, small, mono, error, metric-emerald …),
`kind` on `Card` frames (list, settings, nested, info).
"""

from __future__ import annotations

from PySide6.QtGui import QFontDatabase

from mistudio.core.paths import resources
from mistudio.gui.theme import Appearance, Colors


def mono_family() -> str:
    """The fixed-width family of this machine."""
    return QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont).family()


def stylesheet(look: Appearance) -> str:
    """The style sheet for the look in force."""
    parts = (_text, _frames, _buttons, _inputs, _marks, _bars, _tables, _tabs, _popups)
    return "\n".join(part(look.colors, look) for part in parts)


def _image(name: str) -> str:
    return f"url({(resources() / 'icons' / name).as_posix()}.svg)"


def _line(color: str, way: str) -> str:
    """A thin line in the middle of what is otherwise clear, across `way` (x or y)."""
    end = {"x": "x2:1, y2:0", "y": "x2:0, y2:1"}[way]
    stops = ((0, "transparent"), (0.4, "transparent"), (0.41, color), (0.59, color))
    clear = ((0.6, "transparent"), (1, "transparent"))
    shown = ", ".join(f"stop:{at} {shade}" for at, shade in (*stops, *clear))
    return f"qlineargradient(x1:0, y1:0, {end}, {shown})"


def _text(c: Colors, look: Appearance) -> str:
    px = look.px
    metrics = "".join(
        f'QLabel[role="metric-{role}"] {{ color: {c.role(role)}; font-family: "{mono_family()}"; '
        f"font-size: {px(20)}px; font-weight: 700; }}"
        f'QLabel[role="figure-{role}"] {{ color: {c.role(role)}; font-family: "{mono_family()}"; '
        f"font-size: {px(36)}px; font-weight: 700; }}"
        f'QLabel[role="text-{role}"] {{ color: {c.role(role)}; }}'
        for role in ("emerald", "blue", "purple", "yellow", "red", "text", "muted")
    )
    return f"""
    QWidget {{ color: {c.text}; selection-background-color: {c.emerald_fill};
               selection-color: {c.on_fill}; }}
    QMainWindow, QDialog {{ background: {c.page}; }}
    QLabel {{ background: transparent; }}
    QLabel:disabled {{ color: {c.disabled_text}; }}
    QLabel[role="title"] {{ font-size: {px(24)}px; font-weight: 600; }}
    QLabel[role="section"] {{ font-size: {px(20)}px; font-weight: 600; }}
    QLabel[role="card"] {{ font-size: {px(18)}px; font-weight: 600; }}
    QLabel[role="label"] {{ font-size: {px(14)}px; font-weight: 500; color: {c.label}; }}
    QLabel[role="muted"] {{ font-size: {px(14)}px; color: {c.muted}; }}
    QLabel[role="small"] {{ font-size: {max(11, px(12))}px; color: {c.muted}; }}
    QLabel[role="error"] {{ font-size: {px(14)}px; color: {c.red}; }}
    QLabel[role="warning"] {{ font-size: {px(14)}px; color: {c.yellow}; }}
    QLabel[role="mono"] {{ font-family: "{mono_family()}"; font-size: {px(14)}px;
                           color: {c.label}; }}
    QLabel[role="count"] {{ background: {c.emerald_fill}; color: {c.on_fill};
        border-radius: {px(8)}px; padding: 1px {px(7)}px; font-size: {px(12)}px; }}
    {metrics}
    """


def _frames(c: Colors, look: Appearance) -> str:
    px = look.px
    return f"""
    Card {{ border-radius: {px(8)}px; }}
    Card[kind="list"] {{ background: {c.card}; border: 1px solid {c.border}; }}
    Card[kind="settings"] {{ background: {c.card_settings}; border: 1px solid {c.border_soft}; }}
    Card[kind="nested"] {{ background: {c.card_nested}; border: 1px solid {c.border}; }}
    Card[kind="info"] {{ background: {c.info_fill}; border: 1px solid {c.info_border}; }}
    Card[hoverable="true"]:hover {{ border-color: {c.input_hover}; }}
    Card[hoverable="true"]:focus {{ border: 2px solid {c.focus}; }}
    Card[active="true"] {{ background: {c.active_fill}; border-color: {c.active_border}; }}
    QFrame#header, QStatusBar {{ background: {c.card_settings}; }}
    QFrame#header {{ border: none; border-bottom: 1px solid {c.border}; }}
    QFrame#strip:hover, QFrame#strip:focus {{ border-color: {c.active_border}; }}
    QFrame#strip {{ background: {c.card_settings}; border: 1px solid {c.border};
        border-radius: {px(8)}px; }}
    QStatusBar {{ border-top: 1px solid {c.border}; font-size: {px(13)}px; }}
    QStatusBar::item {{ border: none; }}
    QFrame[line="true"] {{ background: {c.border}; border: none; max-height: 1px; }}
    QGroupBox {{ background: {c.card_nested}; border: 1px solid {c.border};
        border-radius: {px(8)}px; margin-top: {px(14)}px; padding: {px(14)}px {px(12)}px; }}
    QGroupBox::title {{ subcontrol-origin: margin; left: {px(12)}px; padding: 0 {px(4)}px;
        color: {c.label}; }}
    QScrollArea, QScrollArea > QWidget > QWidget#column {{ background: transparent;
        border: none; }}
    QSplitter::handle:horizontal {{ width: {px(11)}px; background: {_line(c.border, "x")}; }}
    QSplitter::handle:vertical {{ height: {px(11)}px; background: {_line(c.border, "y")}; }}
    QSplitter::handle:horizontal:hover {{ background: {_line(c.focus, "x")}; }}
    QSplitter::handle:vertical:hover {{ background: {_line(c.focus, "y")}; }}
    QDockWidget {{ color: {c.text}; titlebar-close-icon: {_image("close_" + c.name)}; }}
    QDockWidget::title {{ background: {c.page}; padding: {px(8)}px {px(12)}px; }}
    QDockWidget::close-button {{ background: transparent; border: none; width: {px(20)}px; }}
    QDockWidget::close-button:hover {{ background: {c.hover}; border-radius: {px(4)}px; }}
    QMainWindow::separator {{ background: {c.border}; width: 3px; height: 3px; }}
    QMainWindow::separator:hover {{ background: {c.focus}; }}
    QDockWidget > QWidget {{ background: {c.page}; }}
    """


def _button(c: Colors, look: Appearance, select: str, colors: tuple[str, str, str, str]) -> str:
    """One button variant: fills normal, hover, pressed and the text colour."""
    px = look.px
    normal, hover, pressed, text = colors
    return f"""
    {select} {{ background: {normal}; color: {text}; border: 1px solid {normal};
        border-radius: {px(8)}px; padding: {px(9)}px {px(20)}px; font-weight: 600; }}
    {select}:hover {{ background: {hover}; border-color: {hover}; }}
    {select}:pressed {{ background: {pressed}; border-color: {pressed}; }}
    {select}:focus {{ border: 2px solid {c.focus}; padding: {px(9) - 1}px {px(20) - 1}px; }}
    {select}:disabled {{ background: {c.disabled_fill}; color: {c.disabled_text};
        border-color: {c.disabled_fill}; }}
    """


def _buttons(c: Colors, look: Appearance) -> str:
    px = look.px
    vertical, horizontal = px(6), px(14)
    return (
        f"""
    QPushButton, QToolButton {{ background: {c.card}; color: {c.text};
        border: 1px solid {c.border}; border-radius: {px(8)}px;
        padding: {vertical}px {horizontal}px; }}
    QToolButton {{ padding: {px(5)}px {px(8)}px; }}
    QPushButton:hover, QToolButton:hover {{ background: {c.hover}; }}
    QPushButton:pressed, QToolButton:pressed {{ background: {c.pressed}; }}
    QPushButton:focus {{ border: 2px solid {c.focus};
        padding: {vertical - 1}px {horizontal - 1}px; }}
    QToolButton:focus {{ border: 2px solid {c.focus};
        padding: {px(5) - 1}px {px(8) - 1}px; }}
    QPushButton:checked, QToolButton:checked {{ background: {c.active_fill}; color: {c.emerald};
        border-color: {c.emerald}; }}
    QPushButton:checked:hover, QToolButton:checked:hover {{ border-color: {c.active_border}; }}
    QPushButton:disabled, QToolButton:disabled {{ background: {c.card};
        border-color: {c.border_soft}; color: {c.muted}; }}
    QPushButton[variant="ghost"], QToolButton[variant="ghost"] {{ background: transparent;
        border-color: transparent; }}
    QPushButton[variant="ghost"]:hover, QToolButton[variant="ghost"]:hover {{
        background: {c.hover}; }}
    QPushButton[variant="ghost"]:pressed, QToolButton[variant="ghost"]:pressed {{
        background: {c.pressed}; }}
    QPushButton[variant="ghost"]:focus, QToolButton[variant="ghost"]:focus {{
        border-color: {c.focus}; }}
    QPushButton[variant="ghost"]:checked, QToolButton[variant="ghost"]:checked {{
        background: {c.active_fill}; color: {c.emerald}; }}
    QPushButton[variant="warning"] {{ color: {c.yellow}; }}
    QPushButton[variant="info"] {{ color: {c.blue}; }}
    QPushButton[variant="info"]:hover, QPushButton[variant="info"]:pressed,
    QPushButton[variant="warning"]:hover, QPushButton[variant="warning"]:pressed {{
        color: {c.text}; }}
    QPushButton[variant="link"] {{ background: transparent; border: 1px solid transparent;
        color: {c.blue}; padding: {px(4)}px; text-decoration: underline; }}
    QPushButton[variant="link"]:hover {{ color: {c.text}; }}
    QPushButton[variant="link"]:focus {{ border: 2px solid {c.focus};
        padding: {px(4) - 1}px; }}
    QPushButton[variant="link"]:disabled {{ color: {c.muted}; }}
    QToolButton::menu-indicator, QPushButton::menu-indicator {{
        image: {_image("chevron_down_" + c.name)}; width: {px(14)}px; height: {px(14)}px;
        subcontrol-origin: padding; subcontrol-position: center right; right: {px(8)}px; }}
    """
        + _button(
            c,
            look,
            'QPushButton[variant="primary"]',
            (c.primary, c.primary_hover, c.primary_pressed, c.on_fill),
        )
        + _button(
            c,
            look,
            'QPushButton[variant="danger"]',
            (c.danger, c.danger_hover, c.danger_pressed, c.on_fill),
        )
    )


def _inputs(c: Colors, look: Appearance) -> str:
    px = look.px
    every = "QLineEdit, QPlainTextEdit, QTextEdit, QAbstractSpinBox, QComboBox"
    names = every.split(", ")

    def each(state: str) -> str:
        return ", ".join(f"{name}{state}" for name in names)

    vertical, horizontal = px(6), px(12)
    return f"""
    {every} {{ background: {c.input}; color: {c.text}; border: 1px solid {c.input_border};
        border-radius: {px(8)}px; padding: {vertical}px {horizontal}px; }}
    QLineEdit, QPlainTextEdit, QTextEdit {{ placeholder-text-color: {c.muted}; }}
    {each(":hover")} {{ border-color: {c.input_hover}; }}
    {each(":focus")} {{ border: 2px solid {c.focus};
        padding: {vertical - 1}px {horizontal - 1}px; }}
    {each(":disabled")} {{ color: {c.disabled_text}; border-color: {c.border_soft}; }}
    {each('[invalid="true"]')} {{ border-color: {c.red}; }}
    QLineEdit:read-only {{ color: {c.label}; }}
    QAbstractSpinBox {{ padding-right: {px(26)}px; }}
    QAbstractSpinBox:focus {{ padding-right: {px(26) - 1}px; }}
    QAbstractSpinBox::up-button, QAbstractSpinBox::down-button {{ width: {px(22)}px;
        border: none; background: transparent; margin: 2px; border-radius: {px(4)}px; }}
    QAbstractSpinBox::up-button:hover, QAbstractSpinBox::down-button:hover {{
        background: {c.hover}; }}
    QAbstractSpinBox::up-button:pressed, QAbstractSpinBox::down-button:pressed {{
        background: {c.pressed}; }}
    QAbstractSpinBox::up-arrow {{ image: {_image("chevron_up_" + c.name)};
        width: {px(12)}px; height: {px(12)}px; }}
    QAbstractSpinBox::down-arrow {{ image: {_image("chevron_down_" + c.name)};
        width: {px(12)}px; height: {px(12)}px; }}
    QAbstractSpinBox QLineEdit {{ border: none; padding: 0 {px(8)}px; background: transparent; }}
    QComboBox {{ padding-right: {px(28)}px; }}
    QComboBox::drop-down {{ border: none; width: {px(28)}px; }}
    QComboBox::down-arrow {{ image: {_image("chevron_down_" + c.name)};
        width: {px(14)}px; height: {px(14)}px; }}
    QComboBox QLineEdit {{ border: none; padding: 0; background: transparent; }}
    QComboBox QAbstractItemView {{ background: {c.card}; border: 1px solid {c.border};
        padding: {px(4)}px; outline: none; }}
    QComboBox QAbstractItemView::item {{ padding: {px(6)}px {px(8)}px; color: {c.text}; }}
    QComboBox QAbstractItemView::item:selected {{ background: {c.active_fill};
        color: {c.emerald}; }}
    """


def _marks(c: Colors, look: Appearance) -> str:
    px = look.px
    return f"""
    QCheckBox, QRadioButton {{ spacing: {px(8)}px; padding: {px(3)}px; background: transparent;
        border: 2px solid transparent; border-radius: {px(6)}px; }}
    QCheckBox:focus, QRadioButton:focus {{ border-color: {c.focus}; }}
    QCheckBox:disabled, QRadioButton:disabled {{ color: {c.disabled_text}; }}
    QCheckBox::indicator, QRadioButton::indicator, QAbstractItemView::indicator,
    QMenu::indicator {{ width: {px(18)}px; height: {px(18)}px; border: 1px solid {c.toggle_off};
        background: {c.input}; border-radius: {px(4)}px; }}
    QRadioButton::indicator {{ border-radius: {px(9)}px; }}
    QCheckBox::indicator:hover, QRadioButton::indicator:hover {{ border-color: {c.focus}; }}
    QCheckBox::indicator:pressed, QRadioButton::indicator:pressed {{
        background: {c.pressed}; }}
    QCheckBox::indicator:checked, QAbstractItemView::indicator:checked,
    QMenu::indicator:checked {{ background: {c.primary}; border-color: {c.primary};
        image: {_image("check_white")}; }}
    QCheckBox::indicator:indeterminate, QAbstractItemView::indicator:indeterminate {{
        background: {c.primary}; border-color: {c.primary}; image: {_image("minus_white")}; }}
    QRadioButton::indicator:checked {{ background: {c.primary}; border-color: {c.primary};
        image: {_image("dot_white")}; }}
    QCheckBox::indicator:checked:hover, QRadioButton::indicator:checked:hover {{
        background: {c.primary_hover}; }}
    QCheckBox::indicator:disabled, QRadioButton::indicator:disabled {{
        background: {c.disabled_fill}; border-color: {c.disabled_fill}; }}
    """


def _bars(c: Colors, look: Appearance) -> str:
    px = look.px
    return f"""
    QSlider::groove:horizontal {{ height: {px(6)}px; border-radius: {px(3)}px;
        background: {c.track}; }}
    QSlider::groove:vertical {{ width: {px(6)}px; border-radius: {px(3)}px;
        background: {c.track}; }}
    QSlider::sub-page:horizontal, QSlider::add-page:vertical {{ background: {c.emerald_fill};
        border-radius: {px(3)}px; }}
    QSlider::handle {{ background: {c.emerald}; border: 2px solid {c.card_settings};
        border-radius: {px(9)}px; width: {px(16)}px; height: {px(16)}px; }}
    QSlider::handle:horizontal {{ margin: -{px(7)}px 0; }}
    QSlider::handle:vertical {{ margin: 0 -{px(7)}px; }}
    QSlider::handle:hover, QSlider::handle:focus {{ border-color: {c.focus}; }}
    QSlider::handle:pressed {{ background: {c.emerald_fill}; }}
    QSlider:focus {{ border: 2px solid {c.focus}; border-radius: {px(6)}px; }}
    QSlider::handle:disabled, QSlider::sub-page:disabled {{ background: {c.disabled_fill}; }}
    QProgressBar {{ background: {c.track}; border: none; border-radius: {px(4)}px;
        height: {px(8)}px; max-height: {px(8)}px; text-align: center; }}
    QProgressBar::chunk {{ border-radius: {px(4)}px; background: qlineargradient(x1:0, y1:0,
        x2:1, y2:0, stop:0 {c.emerald_fill}, stop:1 {c.emerald}); }}
    QProgressBar::chunk:disabled {{ background: {c.disabled_fill}; }}
    QScrollBar {{ background: transparent; border: none; margin: 0; }}
    QScrollBar:vertical {{ width: {px(12)}px; }}
    QScrollBar:horizontal {{ height: {px(12)}px; }}
    QScrollBar::handle {{ background: {c.scroll}; border-radius: {px(4)}px; margin: 2px; }}
    QScrollBar::handle:vertical {{ min-height: {px(32)}px; }}
    QScrollBar::handle:horizontal {{ min-width: {px(32)}px; }}
    QScrollBar::handle:hover, QScrollBar::handle:pressed {{ background: {c.focus}; }}
    QScrollBar::handle:disabled {{ background: {c.border_soft}; }}
    QScrollBar::add-line, QScrollBar::sub-line {{ width: 0; height: 0; }}
    QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}
    QAbstractScrollArea::corner {{ background: transparent; border: none; }}
    """


def _tables(c: Colors, look: Appearance) -> str:
    px = look.px
    return f"""
    QTableView, QTreeView, QListView {{ background: {c.card}; color: {c.text};
        alternate-background-color: {c.card_nested}; border: 1px solid {c.border};
        border-radius: {px(8)}px; gridline-color: {c.border}; outline: none; }}
    QTableView:focus, QTreeView:focus, QListView:focus {{ border: 2px solid {c.focus}; }}
    QTableView::item, QTreeView::item, QListView::item {{ padding: {px(4)}px {px(10)}px;
        border: none; }}
    QTableView::item:hover, QTreeView::item:hover, QListView::item:hover {{
        background: {c.table_hover}; }}
    QTableView::item:selected, QTreeView::item:selected, QListView::item:selected {{
        background: {c.active_fill}; color: {c.emerald}; }}
    QTableView::item:disabled, QListView::item:disabled {{ color: {c.disabled_text}; }}
    QHeaderView {{ background: {c.table_header}; border: none; }}
    QHeaderView::section {{ background: {c.table_header}; color: {c.label}; border: none;
        border-bottom: 1px solid {c.border}; padding: {px(8)}px {px(10)}px; font-weight: 600; }}
    QHeaderView::section:hover {{ background: {c.hover}; color: {c.text}; }}
    QHeaderView::section:pressed {{ background: {c.pressed}; }}
    QHeaderView::down-arrow {{ image: {_image("chevron_down_" + c.name)};
        width: {px(12)}px; }}
    QHeaderView::up-arrow {{ image: {_image("chevron_up_" + c.name)}; width: {px(12)}px; }}
    QTableCornerButton::section {{ background: {c.table_header}; border: none; }}
    QTreeView::branch {{ background: transparent; }}
    QTreeView::branch:closed:has-children {{ image: {_image("chevron_right_" + c.name)}; }}
    QTreeView::branch:open:has-children {{ image: {_image("chevron_down_" + c.name)}; }}
    """


def _tabs(c: Colors, look: Appearance) -> str:
    px = look.px
    return f"""
    QTabWidget::pane {{ border: none; border-top: 1px solid {c.border}; }}
    QTabBar {{ background: transparent; qproperty-drawBase: 0; }}
    QTabBar::tab {{ background: transparent; color: {c.muted}; border: none;
        border-bottom: 2px solid transparent; padding: {px(9)}px {px(16)}px;
        font-weight: 500; }}
    QTabBar::tab:hover {{ color: {c.text}; }}
    QTabBar::tab:selected {{ color: {c.emerald}; border-bottom-color: {c.focus}; }}
    QTabBar::tab:selected:focus {{ background: {c.active_fill}; }}
    QTabBar::tab:disabled {{ color: {c.disabled_text}; }}
    QTabBar QToolButton {{ background: {c.card}; padding: 0; }}
    """


def _popups(c: Colors, look: Appearance) -> str:
    px = look.px
    return f"""
    QMenuBar {{ background: {c.card_settings}; color: {c.label}; font-size: {px(14)}px; }}
    QMenuBar::item {{ background: transparent; padding: {px(4)}px {px(10)}px; }}
    QMenuBar::item:selected {{ background: {c.hover}; color: {c.text}; }}
    QMenuBar::item:pressed {{ background: {c.pressed}; }}
    QMenu {{ background: {c.card}; color: {c.text}; border: 1px solid {c.border};
        padding: {px(4)}px; }}
    QMenu::item {{ padding: {px(6)}px {px(24)}px; border-radius: {px(4)}px; }}
    QMenu::item:selected {{ background: {c.active_fill}; color: {c.emerald}; }}
    QMenu::item:disabled {{ color: {c.disabled_text}; }}
    QMenu::separator {{ height: 1px; background: {c.border}; margin: {px(4)}px {px(8)}px; }}
    QMenu::right-arrow {{ image: {_image("chevron_right_" + c.name)}; width: {px(12)}px; }}
    QToolTip {{ background: {c.card}; color: {c.text}; border: 1px solid {c.border};
        padding: {px(6)}px; }}
    QDialogButtonBox {{ dialogbuttonbox-buttons-have-icons: 0; }}
    """
