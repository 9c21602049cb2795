"""How many tokens of a feature's logit lens are kept, and how many are shown where."""

from __future__ import annotations

KEPT = 20
"""of each end, by a feature set; sets of earlier versions have 10"""
FEW = 10
"""where a line, a table, a prompt or another program's layout has no room for more"""
