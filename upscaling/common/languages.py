"""Languages by their ISO 639 codes: the two-letter code and both three-letter codes of a language are one."""

import re
from collections.abc import Sequence

from upscaling.common.errors import InputError

UNKNOWN = "und"  # undetermined: what a stream without a language has
# Two letters (ISO 639-1), three letters (ISO 639-2/T), and the bibliographic code (ISO 639-2/B) if there is another.
_CODES = """
aa:aar ab:abk ae:ave af:afr ak:aka am:amh an:arg ar:ara as:asm av:ava ay:aym az:aze ba:bak be:bel bg:bul bh:bih
bi:bis bm:bam bn:ben bo:bod:tib br:bre bs:bos ca:cat ce:che ch:cha co:cos cr:cre cs:ces:cze cu:chu cv:chv
cy:cym:wel da:dan de:deu:ger dv:div dz:dzo ee:ewe el:ell:gre en:eng eo:epo es:spa et:est eu:eus:baq fa:fas:per
ff:ful fi:fin fj:fij fo:fao fr:fra:fre fy:fry ga:gle gd:gla gl:glg gn:grn gu:guj gv:glv ha:hau he:heb hi:hin
ho:hmo hr:hrv ht:hat hu:hun hy:hye:arm hz:her ia:ina id:ind ie:ile ig:ibo ii:iii ik:ipk io:ido is:isl:ice it:ita
iu:iku ja:jpn jv:jav ka:kat:geo kg:kon ki:kik kj:kua kk:kaz kl:kal km:khm kn:kan ko:kor kr:kau ks:kas ku:kur
kv:kom kw:cor ky:kir la:lat lb:ltz lg:lug li:lim ln:lin lo:lao lt:lit lu:lub lv:lav mg:mlg mh:mah mi:mri:mao
mk:mkd:mac ml:mal mn:mon mr:mar ms:msa:may mt:mlt my:mya:bur na:nau nb:nob nd:nde ne:nep ng:ndo nl:nld:dut
nn:nno no:nor nr:nbl nv:nav ny:nya oc:oci oj:oji om:orm or:ori os:oss pa:pan pi:pli pl:pol ps:pus pt:por qu:que
rm:roh rn:run ro:ron:rum ru:rus rw:kin sa:san sc:srd sd:snd se:sme sg:sag si:sin sk:slk:slo sl:slv sm:smo sn:sna
so:som sq:sqi:alb sr:srp ss:ssw st:sot su:sun sv:swe sw:swa ta:tam te:tel tg:tgk th:tha ti:tir tk:tuk tl:tgl
tn:tsn to:ton tr:tur ts:tso tt:tat tw:twi ty:tah ug:uig uk:ukr ur:urd uz:uzb ve:ven vi:vie vo:vol wa:wln wo:wol
xh:xho yi:yid yo:yor za:zha zh:zho:chi zu:zul
"""
_QUICKTIME = {"sve": "swe", "iri": "fas"}  # libavformat's names for two of QuickTime's languages
_TERMINOLOGY = _QUICKTIME | {
    code: codes[1] for codes in (entry.split(":") for entry in _CODES.split()) for code in codes
}  # fmt: skip


def same_language(code: str | None) -> str:
    """One code for all that mean the same language: `deu` for de, ger, deu and de-AT; `und` for none."""
    primary = re.split(r"[-_]", (code or UNKNOWN).strip().lower(), maxsplit=1)[0]
    return _TERMINOLOGY.get(primary, primary)


def parse_languages(text: str) -> tuple[str, ...]:
    """`en,ger`: codes in order, each as it was written, no language twice; InputError for what is no code."""
    codes: dict[str, str] = {}
    for word in text.split(","):
        code = word.strip().lower()
        if not re.fullmatch(r"[a-z]{2,3}([-_][a-z0-9]{1,8})*", code) or len(same_language(code)) != 3:
            raise InputError(f"invalid value {text!r} (choose ISO 639 codes such as en or eng, separated by commas)")
        codes.setdefault(same_language(code), code)
    return tuple(codes.values())


def by_language(languages: Sequence[str | None], wanted: Sequence[str]) -> list[int]:
    """The positions of the streams in wanted languages, in the order of those; `languages` are the streams'.

    InputError names the first language that no stream has, and those that exist.
    """
    existing = [same_language(language) for language in languages]
    for code in wanted:
        if same_language(code) not in existing:
            found = dict.fromkeys(language or UNKNOWN for language in languages)
            raise InputError(f"no stream has the language {code}; choose from {', '.join(found) or 'none'}")
    return [at for code in wanted for at, language in enumerate(existing) if language == same_language(code)]
