"""Instructions of 32-bit ARM, as ``instructions`` does those of AArch64: class, registers, branch target."""

from __future__ import annotations

import functools
import re

from tvm_mobilenet.boards.cost.instruction import Instruction

_ALIAS32 = {"sb": "r9", "sl": "r10", "fp": "r11", "ip": "r12"}
_REG32 = re.compile(r"\b(?:(r\d+|sb|sl|fp|ip|sp|lr|pc)|([sdq])(\d+))\b(?!\[\d+\]-)")
_CONDITION = re.compile(r"(eq|ne|hs|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le|cs|cc)$")
_BASE32 = re.compile(
    r"(and|eor|sub|rsb|add|adc|sbc|rsc|tst|teq|cmp|cmn|orr|mov|bic|mvn|movw|movt|lsl|lsr|asr|ror|rrx|"
    r"mul|mla|mls|umull|smull|umlal|smlal|smulbb|smmul|sdiv|udiv|ldrd|strd|ldrb|strb|ldrh|strh|ldrsb|ldrsh|"
    r"ldr|str|ldm|ldmda|ldmdb|ldmib|stm|stmda|stmdb|stmib|push|pop|bl|blx|bx|b|uxtb|uxth|sxtb|sxth|ubfx|"
    r"sbfx|bfi|bfc|clz|pld|rsbs|nop|dmb|svc|udf|uxtah|sxtah|uxtab|pkhbt|rev|sel|trap)(s?)"
)


def _registers32(text: str) -> list[str]:
    out = []
    for m in _REG32.finditer(text):
        if m[1]:
            out.append(_ALIAS32.get(m[1], m[1]))
        else:
            n = int(m[3])
            out += [f"d{2 * n}", f"d{2 * n + 1}"] if m[2] == "q" else [f"d{n}" if m[2] == "d" else f"d{n // 2}"]
    return out


@functools.lru_cache(maxsize=65536)
def _fields32(mnemonic: str, operands: str):
    name, _, dtype = mnemonic.partition(".")
    conditional = sets = False
    if not name.startswith("v"):
        m = _BASE32.fullmatch(name) or _BASE32.fullmatch(_CONDITION.sub("", name))
        conditional = not _BASE32.fullmatch(name) and bool(_CONDITION.search(name))
        name, sets = (m[1], m[2] == "s") if m else (name, False)
    kind = _kind32(name, dtype, operands)
    reads, writes, accumulator, base = [], [], "", ""
    first, _, rest = operands.partition(",")
    if kind.startswith(("load", "store", "prefetch")):
        if "{" in operands and name[:3] in ("ldm", "stm", "pop", "pus", "vld", "vst", "vpu", "vpo"):
            inside = operands[operands.index("{") : operands.index("}")]
            outside = operands.replace(inside, "")
            data, where = _registers32(inside), _registers32(outside)
            if name in ("push", "pop", "vpush", "vpop"):
                where = ["sp"]
            base = where[0] if "!" in operands or where == ["sp"] else ""
            if name[:3] in ("vld", "vst") and operands.rstrip()[-1] not in "]}!":
                base = where[0]
        else:
            at = operands.find("[")
            data, where = _registers32(operands[:at]), _registers32(operands[at:])
            base = where[0] if "]!" in operands or operands.rstrip()[-1] != "]" else ""
        reads += where
        (writes if kind.startswith("load") else reads).extend(data)
        if kind == "load_lane":
            reads += data
    elif kind in ("branch", "call"):
        reads += _registers32(operands)
        if kind == "call":
            writes.append("lr")
    else:
        target, sources = _registers32(first), _registers32(rest)
        if name in ("cmp", "cmn", "tst", "teq", "vcmp", "vcmpe"):
            sources, target = target + sources, []
            writes.append("nzcv")
        if name in ("umull", "smull", "umlal", "smlal"):
            target, sources = target + sources[:1], sources[1:]
        if kind.startswith(("fma_", "vmla")):
            accumulator = target[0]
        elif name in ("movt", "bfi", "vbsl", "vbit", "vbif", "vtbx") or conditional or "[" in first:
            sources = target + sources
        reads += sources
        writes += target
    if conditional or name == "vmrs":
        reads.append("nzcv")
    if sets or name == "vmrs":
        writes.append("nzcv")
    branch = ""
    if kind == "call":
        branch = "call"
    elif kind == "branch":
        branch = "indirect" if name in ("bx", "blx") else "cond" if conditional else "always"
    elif "pc" in writes:
        branch = "indirect"
    return kind, tuple(reads), tuple(dict.fromkeys(writes)), accumulator, base, branch


def parse(address: int, mnemonic: str, operands: str) -> Instruction:
    """The instruction that capstone prints as ``mnemonic operands``."""
    direct = mnemonic[0] == "b" and operands.startswith("#0x") and not mnemonic.startswith(("bic", "bf"))
    kind, reads, writes, accumulator, base, branch = _fields32(mnemonic, "" if direct else operands)
    return Instruction(
        address,
        f"{mnemonic} {operands}".strip(),
        kind,
        reads,
        writes,
        accumulator,
        base,
        branch,
        int(operands[1:], 16) if direct else -1,
    )


def _kind32(name: str, dtype: str, operands: str) -> str:
    first = operands.partition(",")[0]
    wide = "_q" if re.match(r"q\d", first) else "_d"
    if name in ("b", "bx"):
        return "branch"
    if name in ("bl", "blx"):
        return "call"
    if name in ("vldr", "vstr"):
        return f"{'load' if name == 'vldr' else 'store'}_d"
    if name.startswith(("vld", "vst", "vpush", "vpop")):
        verb = "load" if name.startswith(("vld", "vpop")) else "store"
        count = len(_registers32(operands[operands.index("{") : operands.index("}")]))
        if "[" in operands[: operands.index("}")]:
            return "load_rep" if "[]" in operands else f"{verb}_lane"
        if re.match(r"v(ld|st)[234]", name):
            return f"{verb}_zip"
        return f"{verb}_d" if count == 1 else f"{verb}_m{min((count + 1) // 2, 4)}"
    if name.startswith(("ldm", "pop", "stm", "push", "ldrd", "strd")):
        return ("load" if name[:2] in ("ld", "po") else "store") + "_px"
    if name.startswith(("ldr", "str")):
        return ("load" if name[0] == "l" else "store") + "_x"
    if name == "pld":
        return "prefetch"
    if name.startswith("v"):
        return _vector_kind32(name, dtype, operands, wide)
    if name in ("nop",):
        return "nop"
    if name in ("dmb",):
        return "barrier"
    if name in ("mul", "smulbb", "smmul", "umull", "smull"):
        return "mull"
    if name in ("mla", "mls", "umlal", "smlal"):
        return "mull"
    if name in ("sdiv", "udiv"):
        return "div"
    if re.search(r", lsl #[1-4]$", operands):
        return "alu_lsl"
    if re.search(r", (lsl|lsr|asr|ror) #?\w+$", operands):
        return "alu_shift"
    return "alu" if _BASE32.fullmatch(name) and name not in ("svc", "udf", "trap") else "unknown"


_KINDS32 = [
    (re.compile(p + r"$"), f, i)
    for p, f, i in (
        (r"vf?n?m[l][as]|vfm[as]|vfnm[as]", "fma", "vmla"),
        (r"vml[as]l", "", "vmla"),
        (r"v(add|sub|abd|padd)", "fadd", "vint"),
        (r"vn?mull?|vqr?dmulh", "fmul", "vmul"),
        (r"vp?(max|min)(nm)?", "fminmax", "vint"),
        (r"vdiv|vsqrt", "fdiv", "fdiv"),
        (r"vcvt\w*|vrint\w*|vrecpe|vrsqrte", "fcvt", "fcvt"),
        (r"vrecps|vrsqrts", "fadd", "fadd"),
        (
            r"v(abs|neg|and|orr|eor|bic|orn|mvn|bsl|bit|bif|ceq|cge|cgt|cle|clt|tst|qadd|qsub|hadd|addl|subl|addw|paddl|padal)",
            "vint",
            "vint",
        ),
        (
            r"v(shl|shr|sra|shrn|shll|qshrn|qrshrn|qrshrun|movl|movn|qmovn|qmovun|rshr|sli|sri|qshl|rshrn)",
            "vshift",
            "vshift",
        ),
        (r"v(ext|zip|uzp|trn|rev16|rev32|rev64|swp|dup)", "shuffle", "shuffle"),
    )
]


def _vector_kind32(name: str, dtype: str, operands: str, wide: str) -> str:
    if name in ("vcmp", "vcmpe", "vmrs"):
        return "fcmp"
    if name in ("vtbl", "vtbx"):
        return "table"
    general = r"\b(r\d+|sb|sl|fp|ip|lr)\b"
    if name in ("vmov", "vdup"):
        first = operands.partition(",")[0]
        if re.match(general, first):
            return "to_gpr"
        if re.search(general, operands):
            return "ins_gpr" if "[" in first else "dup_gpr"
        return "shuffle" + wide if name == "vdup" or "[" in operands else "vmove"
    for pattern, floating, integer in _KINDS32:
        if pattern.match(name):
            kind = floating if dtype.startswith(("f", "bf")) else integer
            if kind == "fma" and operands.startswith("s"):
                return "fma_s"
            return kind + wide
    return "unknown"
