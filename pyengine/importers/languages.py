"""Tokens of languages, which classes of tokenizers put into texts: made into ``languages.json``.

Reference: transformers 5.24.0, tokenization_nllb.py, tokenization_mbart.py, tokenization_mbart50.py and
tokenization_m2m_100.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyengine.errors import UnsupportedError
from pyengine.formats.strict_json import shorten

__all__ = ["LANGUAGES_FILE", "M2M100", "MBART", "MBART50", "RULES", "languages_file", "m2m_tokens"]

LANGUAGES_FILE = "languages.json"
M2M100 = "M2M100Tokenizer"


@dataclass(frozen=True)
class _Rule:
    """Of a class. source, target: see ``text/languages.py``; pattern: of a token, its group is the code."""

    source: str
    target: str
    pattern: str
    default: str


RULES: Mapping[str, _Rule] = {
    "NllbTokenizer": _Rule("begin", "first", "([a-z]{3}_[A-Z][a-z]{3})", "eng_Latn"),
    "MBart50Tokenizer": _Rule("begin", "first", "([a-z]{2}_[A-Z]{2})", "en_XX"),
    "MBartTokenizer": _Rule("end", "start", "([a-z]{2}_[A-Z]{2})", "en_XX"),
    M2M100: _Rule("begin", "first", "__([a-z]+)__", "en"),
}

# Of M2M100, behind the vocabulary and in this order; its files give the name of the list.
_LISTS = {
    "m2m100": "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr "
    "ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps "
    "pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu",
    "wmt21": "en ha is ja cs ru zh de",
}

# Of mBART and mBART-50, between the pieces and "<mask>".
MBART = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX "
    "ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"
).split()
MBART50 = [
    *MBART,
    *(
        "af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE "
        "ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
    ).split(),
]


def languages_file(name: str, settings: Mapping[str, Any], tokens: Iterable[str], end: str) -> bytes | None:
    """The file for a tokenizer of the class ``name``, whose tokenizer_config.json is ``settings``; None: none.

    ``tokens``: the special ones, in their order; ``end``: the one that ends a text.
    """
    rule = RULES.get(name)
    if rule is None:
        return None
    found = {match[1]: token for token in tokens if (match := re.fullmatch(rule.pattern, token))}
    if not found:
        return None
    default = settings.get("src_lang")
    content = {
        "source": "end" if settings.get("legacy_behaviour") is True else rule.source,
        "target": rule.target,
        "default": default if isinstance(default, str) else rule.default,
        "end": end,
        "tokens": found,
    }
    return json.dumps(content, indent=1).encode("ascii")


def m2m_tokens(settings: Mapping[str, Any], where: str) -> list[str]:
    """The tokens of languages of M2M100, in the order of their ids. UnsupportedError: of another list."""
    name = settings.get("language_codes", "m2m100")
    if not isinstance(name, str) or name not in _LISTS:
        raise UnsupportedError(f"{where}: language_codes: expected {' or '.join(_LISTS)}, found {shorten(name)}")
    return [f"__{code}__" for code in _LISTS[name].split()]
