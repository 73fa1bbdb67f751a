"""Disassembled instructions in the form that the core model takes: class, registers read and written, branch target.

Classes are the rows of a core's ``[model.classes]`` table; AArch64 and 32-bit ARM share them. A core without half
precision may omit the classes of vectors of eight halves. Any core may omit classes of integer instructions that cost
as much as a related class (``IN_PLACE``). Of these, ``vmull`` and ``vmlal`` are long multiplies. ``vadalp`` and
``vaddlp`` are pairwise long additions with and without an accumulator; ``vsum`` are other widening, pairwise and
saturating additions. ``vnarrow`` and ``vqnarrow`` halve the width of elements, the latter with saturation or rounding.
``table_3`` looks up in three registers; ``table_x3`` does so too and keeps elements whose index is out of range.
Registers are named by the storage they share: ``w3`` and ``x3`` are ``x3``; on 32-bit ARM ``s``, ``d`` and ``q``
registers are the ``d`` registers that hold them.
"""

from __future__ import annotations

import functools
import re

import capstone

from tvm_mobilenet.boards.cost.instruction import Instruction

CLASSES = (
    "fma_q",
    "fma_d",
    "fma_s",
    "fadd_q",
    "fadd_d",
    "fmul_q",
    "fmul_d",
    "fminmax_q",
    "fminmax_d",
    "fdiv_q",
    "fdiv_d",
    "fdiv_h",
    "fcvt_q",
    "fcvt_d",
    "fcvt_h",
    "fcmp",
    "vint_q",
    "vint_d",
    "vmul_q",
    "vmul_d",
    "vmla_q",
    "vmla_d",
    "vshift_q",
    "vshift_d",
    "vmull",
    "vmlal",
    "vadalp",
    "vaddlp",
    "vsum_q",
    "vsum_d",
    "vnarrow",
    "vqnarrow",
    "dot_q",
    "dot_d",
    "shuffle_q",
    "shuffle_d",
    "table",
    "table_2",
    "table_3",
    "table_4",
    "table_x",
    "table_x2",
    "table_x3",
    "table_x4",
    "dup_gpr",
    "ins_gpr",
    "to_gpr",
    "vmove",
    "load_x",
    "load_px",
    "load_q",
    "load_d",
    "load_pq",
    "load_pd",
    "load_m1",
    "load_m2",
    "load_m3",
    "load_m4",
    "load_lane",
    "load_rep",
    "load_zip",
    "store_x",
    "store_px",
    "store_q",
    "store_d",
    "store_pq",
    "store_pd",
    "store_m1",
    "store_m2",
    "store_m3",
    "store_m4",
    "store_lane",
    "store_zip",
    "prefetch",
    "alu",
    "alu_lsl",
    "alu_shift",
    "mul",
    "mull",
    "madd",
    "div",
    "branch",
    "call",
    "nop",
    "barrier",
    "unknown",
)
IN_PLACE = {  # classes that a core may omit, and the row that stands for each
    "fdiv_h": "fdiv_q",
    "fcvt_h": "fcvt_q",
    "vmull": "vmul_q",
    "vmlal": "vmla_q",
    "vadalp": "vint_q",
    "vaddlp": "vint_q",
    "vsum_q": "vint_q",
    "vsum_d": "vint_d",
    "vnarrow": "vshift_d",
    "vqnarrow": "vshift_d",
    **{f"table_{more}": "table" for more in ("2", "3", "4", "x", "x2", "x3", "x4")},
}
_ACCUMULATE = ("fma_", "vmla", "vadalp", "dot")  # classes, or beginnings of their names


@functools.cache
def _disassembler(architecture: str) -> capstone.Cs:
    if architecture == "aarch64":
        return capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    return capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_ARM | capstone.CS_MODE_V8)


def disassemble(architecture: str, code: bytes, address: int) -> list[Instruction]:
    """The instructions of ``code``, one for every four bytes; bytes that are no instruction have kind ``unknown``."""
    if architecture == "aarch64":
        parse = _parse64
    else:
        from tvm_mobilenet.boards.cost.instructions_arm32 import parse
    result = []
    cs = _disassembler(architecture)
    at = 0
    while at < len(code):
        for a, _, mnemonic, operands in cs.disasm_lite(code[at:], address + at):
            result.append(parse(a, mnemonic, operands))
        at = 4 * len(result)
        if at < len(code):
            word = int.from_bytes(code[at : at + 4], "little")
            result.append(Instruction(address + at, f".inst {word:#010x}", "unknown"))
            at += 4
    return result


# ---- AArch64

_REG64 = re.compile(r"\b(?:([wx])(\d+)|([vqdshb])(\d+)|(sp|wsp)|(fp)|(lr))\b")
_MERGES = re.compile(
    r"(bsl|bit|bif|movk|bfi|bfxil|bfm|bfc|tbx|sri|sli|sqxtn2|uqxtn2|sqxtun2|xtn2|fcvtn2|shrn2|rshrn2|"
    r"sqrshrn2|sqrshrun2|sqshrn2|uqrshrn2|[us]r?sra|[us]aba|[us]adalp)$"
)
_FLAGS_READ = re.compile(
    r"(csel|csinc|csinv|csneg|cset|csetm|cinc|cinv|cneg|ccmp|ccmn|fcsel|fccmp|adc|adcs|sbc|sbcs|"
    r"b\..*|ngc)$"
)
_FLAGS_WRITTEN = re.compile(r"(cmp|cmn|tst|ccmp|ccmn|fcmp|fcmpe|fccmp|adds|subs|ands|bics|adcs|sbcs|negs)$")


def _registers64(text: str) -> list[str]:
    out = []
    for m in _REG64.finditer(text):
        if m[1]:
            out.append("x" + m[2])
        elif m[3]:
            out.append("v" + m[4])
        else:
            out.append("sp" if m[5] else "x29" if m[6] else "x30")
    return out


@functools.lru_cache(maxsize=65536)
def _fields64(mnemonic: str, operands: str):
    """All fields but address and branch target."""
    kind = _kind64(mnemonic, operands)
    reads: list[str] = []
    writes: list[str] = []
    accumulator = base = ""
    address_at = operands.find("[") if kind.startswith(("load", "store", "prefetch")) else -1
    brace = operands.find("{")
    if address_at >= 0:
        if brace >= 0:  # ld1 {v0.4s, v1.4s}, [x0], #32: the bracket of a lane comes before the address
            address_at = operands.index("[", operands.index("}") + 2)
        data, where = _registers64(operands[:address_at]), _registers64(operands[address_at:])
        reads += where
        if "]!" in operands or operands[operands.rindex("]") :].strip("], "):
            base = where[0]
        if kind.startswith("load"):
            writes += data
            if kind == "load_lane":
                reads += data
        elif kind.startswith("store"):
            reads += data
    elif kind in ("branch", "call"):
        reads += _registers64(operands) if mnemonic not in ("ret",) else ["x30"]
        if mnemonic in ("bl", "blr"):
            writes.append("x30")
    else:
        first, _, rest = operands.partition(",")
        target, sources = _registers64(first), _registers64(rest)
        if _FLAGS_WRITTEN.match(mnemonic) and mnemonic[:3] in ("cmp", "cmn", "tst", "ccm", "fcm", "fcc"):
            sources, target = target + sources, []
        if kind.startswith(("fma_", "vmla", "vadalp", "dot")) and mnemonic not in (
            "fmadd",
            "fmsub",
            "fnmadd",
            "fnmsub",
        ):
            accumulator = target[0] if target else ""
        elif kind.startswith("fma_"):  # fmadd d, n, m, a
            accumulator = sources.pop() if len(sources) > 2 else ""
        elif _MERGES.match(mnemonic) or (kind in ("shuffle_q", "shuffle_d", "ins_gpr") and "[" in first):
            sources = target + sources
        reads += sources
        writes += target
    if _FLAGS_READ.match(mnemonic):
        reads.append("nzcv")
    if _FLAGS_WRITTEN.match(mnemonic):
        writes.append("nzcv")
    branch = ""
    if kind in ("branch", "call"):
        branch = (
            "call"
            if mnemonic in ("bl", "blr")
            else "indirect"
            if mnemonic in ("ret", "br")
            else "always"
            if mnemonic == "b"
            else "cond"
        )
    return kind, tuple(reads), tuple(dict.fromkeys(writes)), accumulator, base, branch


def _parse64(address: int, mnemonic: str, operands: str) -> Instruction:
    direct = (
        mnemonic[0] in "bct"
        and "#0x" in operands
        and (mnemonic in ("b", "bl", "cbz", "cbnz", "tbz", "tbnz") or mnemonic.startswith("b."))
    )
    target = int(operands[operands.rindex("#") + 1 :], 16) if direct else -1
    if direct and mnemonic[0] == "b":
        kind, reads, writes, accumulator, base, branch = _fields64(mnemonic, "")
    else:
        kind, reads, writes, accumulator, base, branch = _fields64(mnemonic, operands)
    text = f"{mnemonic} {operands}".strip()
    return Instruction(address, text, kind, reads, writes, accumulator, base, branch, target)


_KINDS64 = [
    (re.compile(p + r"$"), k)
    for p, k in (
        (r"fml[as]|fmlal2?|fmlsl2?|fn?madd|fn?msub|bfml.*", "fma"),
        (r"(f(add|sub|abd|addp|recps|rsqrts))", "fadd"),
        (r"f(mul|mulx|nmul)", "fmul"),
        (r"f(max|min)(nm)?p?v?", "fminmax"),
        (r"fdiv|fsqrt", "fdiv"),
        (r"fcvt\w*|[su]cvtf|frint\w*|frecpe|frsqrte", "fcvt"),
        (r"fcmp\w*|fccmp\w*|fcsel|fac\w\w|fcm\w\w|facg[te]", "fcmp"),
        (r"fabs|fneg", "vint"),
        (r"[su]dot|usdot|sudot|bfdot|[su]mmla", "dot"),
    )
]
_INTEGERS64 = [  # vector instructions, for any width of the first operand
    (re.compile(p), k)
    for p, k in (
        (r"[su]mull2?|sqdmull2?|pmull2?", "vmull"),
        (r"[su]ml[as]l2?|sqdml[as]l2?", "vmlal"),
        (r"[su]adalp", "vadalp"),
        (r"[su]addlp", "vaddlp"),
        (r"xtn2?|r?(add|sub)hn2?", "vnarrow"),
        (r"[su]qxtn2?|sqxtun2?|rshrn2?|[su]qr?shrn2?|sqr?shrun2?", "vqnarrow"),
    )
]
_SUM_VECTOR = re.compile(r"[su]q(add|sub)|suqadd|usqadd|[su](add|sub)[lw]2?|addp")
_INTEGER_VECTOR = re.compile(
    r"[su]?q?(add|sub|max|min|abd|hadd|rhadd|neg|abs)\w*|and|orr|eor|bic|orn|mvn|not|bsl|bit"
    r"|bif|cm\w\w|cmtst|[us]aba\w*|[us]adalp|addv|cnt"
)
_SHIFT_VECTOR = re.compile(
    r"[su]?q?r?(shl|shr|sra|shrn|shrun|rshr|rshrn|rshrun|xtn|xtun|shll)2?|sshll2?|ushll2?|"
    r"sxtl2?|uxtl2?|sqr?shru?n2?|sli|sri|[us]r?sra"
)
_MULTIPLY_VECTOR = re.compile(r"mul|[su]mull2?|pmull?2?|sqr?dmulh|sqdmull2?")
_ACCUMULATE_VECTOR = re.compile(r"ml[as]|[su]ml[as]l2?|sqdml[as]l2?")
_SHUFFLE = re.compile(r"dup|ins|mov|ext|zip[12]|uzp[12]|trn[12]|rev\d*|movi|mvni|fmov")


def _kind64(mnemonic: str, operands: str) -> str:
    """The class of an instruction of AArch64. In one piece: a list of rules, of which the first match
    counts."""
    first = operands.partition(",")[0]
    vector = bool(re.match(r"\{? ?[vqdshb]\d", first))
    if mnemonic in ("b", "ret", "br", "cbz", "cbnz", "tbz", "tbnz") or mnemonic.startswith("b."):
        return "branch"
    if mnemonic in ("bl", "blr"):
        return "call"
    if mnemonic[:2] in ("ld", "st") and mnemonic != "st2g":
        return _memory_kind(mnemonic, operands, vector)
    if mnemonic in ("prfm", "prfum"):
        return "prefetch"
    if mnemonic in ("nop", "hint", "bti", "yield"):
        return "nop"
    if mnemonic in ("dmb", "dsb", "isb"):
        return "barrier"
    wide = "_q" if re.match(r"[v]\d+\.(16b|8h|4s|2d|b|h|s|d)\b", first) or first.startswith("q") else "_d"
    if mnemonic.endswith("2") and vector:
        wide = "_q"
    for pattern, kind in _KINDS64:
        if pattern.match(mnemonic):
            if not vector and kind == "fcvt":
                return "to_gpr"
            if kind == "fcvt" and re.search(r", [wx]\d", operands):
                return "dup_gpr"
            if kind == "fcmp":
                return kind if "." not in first else "vint" + wide
            if kind == "fma" and "." not in first:
                return "fma_s"
            if kind == "fcvt" and first.endswith(".4h"):
                return "fcvt_q"  # four halves are converted like four singles, and fcvtn then narrows them
            if f"{kind}_h" in IN_PLACE and first.endswith(".8h") and not mnemonic.startswith("fcvtn"):
                return f"{kind}_h"
            return kind + wide
    if vector:
        if integer := _integer_kind64(mnemonic, operands, wide):
            return integer
        if re.search(r", [wx]([0-9]+|zr)$", operands):
            return "ins_gpr" if "[" in first else "dup_gpr"
        if mnemonic in ("movi", "mvni") or (mnemonic in ("mov", "fmov") and "[" not in operands):
            return "vmove"
        for pattern, kind in (
            (_ACCUMULATE_VECTOR, "vmla"),
            (_MULTIPLY_VECTOR, "vmul"),
            (_SHIFT_VECTOR, "vshift"),
            (_SHUFFLE, "shuffle"),
            (_INTEGER_VECTOR, "vint"),
        ):
            if pattern.fullmatch(mnemonic):
                return kind + wide
        return "unknown"
    if re.match(r"(umov|smov|fmov|mov)$", mnemonic) and re.search(r"\b[vsdh]\d+", operands):
        return "to_gpr"
    if mnemonic in ("fcmp", "fcmpe"):
        return "fcmp"
    if mnemonic in ("mul", "mneg", "smulh", "umulh", "madd", "msub") and operands.startswith("x"):
        return "madd" if mnemonic[1] in "as" and mnemonic[0] == "m" else "mul"
    if mnemonic in ("mul", "mneg", "madd", "msub", "smull", "umull", "smaddl", "umaddl", "smsubl", "umsubl"):
        return "mull"  # of 32 bits, which is faster
    if mnemonic in ("sdiv", "udiv"):
        return "div"
    if re.search(r", lsl #[1-4]$", operands) and mnemonic not in ("lsl", "mov", "movz", "movk", "movn"):
        return "alu_lsl"
    moves = ("mov", "movz", "movk", "movn")
    if re.search(r", (lsl|lsr|asr|ror|[su]xt[bhw]) ?#?\w*$", operands) and mnemonic not in moves:
        return "alu_shift"
    if mnemonic in ("svc", "brk", "udf", "hlt", "mrs", "msr"):
        return "unknown"
    return "alu"


def _integer_kind64(mnemonic: str, operands: str, wide: str) -> str:
    """The special class of an integer vector instruction, if it has one; else empty."""
    if mnemonic in ("tbl", "tbx"):
        more = operands[operands.index("{") : operands.index("}")].count(",") + 1
        name = ("x" if mnemonic == "tbx" else "") + (str(more) if more > 1 else "")
        return f"table_{name}" if name else "table"
    for pattern, kind in _INTEGERS64:
        if pattern.fullmatch(mnemonic):
            return kind
    return "vsum" + wide if _SUM_VECTOR.fullmatch(mnemonic) else ""


def _memory_kind(mnemonic: str, operands: str, vector: bool) -> str:
    verb = "load" if mnemonic[:2] == "ld" else "store"
    if "{" in operands:
        inside = operands[operands.index("{") + 1 : operands.index("}")]
        n = inside.count(",") + 1
        if mnemonic.endswith("r") and verb == "load":
            return "load_rep"
        if operands[operands.index("}") + 1] == "[":
            return f"{verb}_lane"
        return f"{verb}_m{n}" if mnemonic[2] == "1" else f"{verb}_zip"
    pair = mnemonic[2:].startswith(("p", "np", "xp"))
    if not vector:
        return f"{verb}_{'p' if pair else ''}x"
    return f"{verb}_{'p' if pair else ''}{'q' if operands.startswith('q') else 'd'}"
